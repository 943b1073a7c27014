//! A headless Chromium, driven by the W3C WebDriver protocol.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long chromedriver and Chromium may take to start on a busy machine.
const STARTED_WITHIN: Duration = Duration::from_secs(30);
const DRIVER: &str = "chromedriver";
/// How often it is started if it exits at once.
const DRIVER_ATTEMPTS: u32 = 10;
/// The error text when the browser or its driver is missing.
pub const MISSING: &str =
    "cannot start the browser; `make test` and local/tools/prerequisites.sh say how to install it";
/// No update checks, no profile, no access to other machines.
const ARGUMENTS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
];
/// The key under which WebDriver returns an element's id.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window. Dropping it ends the browser.
pub struct Browser {
    http: Client,
    session: String,
    driver: Child,
    /// The Chromium process. It would outlive chromedriver, so it is killed separately.
    chromium: Option<Pid>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(pid) = self.chromium {
            // Chromium may have ended already.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl Browser {
    /// Starts a browser.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts the browser with additional Chromium arguments.
    pub async fn start_with(more: &[&str]) -> Result<Self> {
        let (driver, port) = tokio::time::timeout(STARTED_WITHIN, start_driver()).await??;
        let http = Client::builder().timeout(STARTED_WITHIN).build()?;
        let arguments = [&ARGUMENTS, more].concat();
        let mut options = json!({ "args": arguments });
        // chromedriver does not search the PATH, where an unpacked Chromium is.
        if let Some(chromium) = on_path("chromium") {
            options["binary"] = json!(chromium);
        }
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let url = format!("http://127.0.0.1:{port}/session");
        let made = send(&http, Method::POST, &url, &capabilities)
            .await
            .context(MISSING)?;
        let id = made["sessionId"]
            .as_str()
            .context("the WebDriver session has no id")?;
        let pid = made["capabilities"]["goog:processID"].as_i64();
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        Ok(Self {
            session: format!("{url}/{id}"),
            http,
            driver,
            chromium: pid.map(Pid::from_raw),
        })
    }

    /// Closes the window, so that the page runs its unload handlers, and ends the browser.
    pub async fn close(mut self) -> Result<()> {
        send(&self.http, Method::DELETE, &self.session, &json!({})).await?;
        self.chromium = None;
        self.driver.kill().await?;
        Ok(())
    }

    /// Opens a URL and waits until it has loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.post("url", json!({ "url": url })).await?;
        Ok(())
    }

    /// Runs a JavaScript function body and returns its result. Awaits a promise.
    pub async fn run(&self, body: &str, arguments: Value) -> Result<Value> {
        let script = json!({ "script": body, "args": arguments });
        self.post("execute/sync", script).await
    }

    /// Waits until a JavaScript expression is true.
    pub async fn until(&self, expression: &str, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let body = format!("return Boolean({expression})");
        while self.run(&body, json!([])).await? != true {
            if Instant::now() > deadline {
                let page = self
                    .run("return document.body.innerText", json!([]))
                    .await?;
                let page = page.as_str().unwrap_or_default();
                bail!("not true within {within:?}: {expression}\n\nThe page shows:\n{page}\n");
            }
            sleep(Duration::from_millis(30)).await;
        }
        Ok(())
    }

    /// Clicks the first element that matches a CSS selector. The page may draw it again just now; then the new one is clicked.
    pub async fn click(&self, css: &str) -> Result<()> {
        loop {
            let element = self.find(css).await?;
            let click = format!("element/{element}/click");
            match self.post(&click, json!({})).await {
                Err(error) if format!("{error:#}").contains("stale element reference") => {}
                clicked => return clicked.map(drop),
            }
        }
    }

    /// Replaces the text of an input field.
    pub async fn fill(&self, css: &str, text: &str) -> Result<()> {
        let element = self.find(css).await?;
        self.post(&format!("element/{element}/clear"), json!({}))
            .await?;
        if !text.is_empty() {
            let keys = json!({ "text": text });
            self.post(&format!("element/{element}/value"), keys).await?;
        }
        Ok(())
    }

    /// Presses the keys one after the other on the focused element. See [`TAB`] and [`ENTER`].
    pub async fn press(&self, keys: &str) -> Result<()> {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        let actions =
            json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] });
        self.post("actions", actions).await?;
        Ok(())
    }

    /// Sends a Chrome DevTools command, for example to set the screen size or a user preference.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        let call = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", call).await
    }

    /// A screenshot of the window as PNG.
    pub async fn screenshot(&self) -> Result<Vec<u8>> {
        let url = format!("{}/screenshot", self.session);
        let image = send(&self.http, Method::GET, &url, &Value::Null).await?;
        Ok(BASE64.decode(image.as_str().context("the screenshot has no data")?)?)
    }

    /// The errors in the browser's log: failed scripts and violations of the content security policy.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let log = self.post("se/log", json!({ "type": "browser" })).await?;
        let entries = log.as_array().into_iter().flatten();
        let severe = entries.filter(|entry| entry["level"] == "SEVERE");
        Ok(severe.map(|entry| entry["message"].to_string()).collect())
    }

    async fn find(&self, css: &str) -> Result<String> {
        let by = json!({ "using": "css selector", "value": css });
        let element = self.post("element", by).await?;
        let id = element[ELEMENT].as_str();
        Ok(id
            .with_context(|| format!("no element matches {css}"))?
            .to_owned())
    }

    async fn post(&self, what: &str, body: Value) -> Result<Value> {
        let url = format!("{}/{what}", self.session);
        send(&self.http, Method::POST, &url, &body)
            .await
            .with_context(|| format!("{what} {body}"))
    }
}

/// The Tab key in WebDriver.
pub const TAB: &str = "\u{e004}";
/// The Enter key in WebDriver.
pub const ENTER: &str = "\u{e007}";

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut files = std::env::split_paths(&path).map(|folder| folder.join(program));
    files.find(|file| file.is_file())
}

/// Starts chromedriver, and returns its port. It takes a free IPv6 port, and exits if the same IPv4 port is in use. The connections
/// of earlier tests occupy many.
async fn start_driver() -> Result<(Child, u16)> {
    for _ in 0..DRIVER_ATTEMPTS {
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context(MISSING)?;
        let said = driver.stdout.take().context("chromedriver has no stdout")?;
        if let Some(port) = port_in(said).await? {
            return Ok((driver, port));
        }
    }
    bail!("{DRIVER} has not started in {DRIVER_ATTEMPTS} attempts")
}

/// Reads the port from chromedriver's output. `None` if it exits.
async fn port_in(said: tokio::process::ChildStdout) -> Result<Option<u16>> {
    let mut lines = BufReader::new(said).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            let port = port.trim_end_matches('.').parse()?;
            // chromedriver blocks when its output is not read.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(Some(port));
        }
    }
    Ok(None)
}

async fn send(http: &Client, method: Method, url: &str, body: &Value) -> Result<Value> {
    let mut request = http.request(method, url);
    if !body.is_null() {
        request = request.json(body);
    }
    let answer = request.send().await?;
    let status = answer.status();
    let mut body: Value = answer.json().await?;
    ensure!(status.is_success(), "{}", body["value"]["message"]);
    Ok(body["value"].take())
}
