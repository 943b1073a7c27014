//! A connection that is kept up, as an app keeps it: alive by pings, replaced before its time is up, and found again
//! after it was lost.

use std::pin::Pin;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::Backoff;
use crate::calls::{HttpApi, SeenCalls};
use crate::client::{Client, Credential, Error};
use crate::typed::ping;

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The WebSocket API, `wss://…/exotel-stream`.
    pub url: String,
    /// Who connects.
    pub credential: Credential,
    /// Where to ask how calls stand after the connection was lost, if anywhere.
    pub http: Option<HttpApi>,
}

/// When a connection is pinged, given up and replaced.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// API Gateway closes a connection that was idle for 10 minutes.
    pub ping_every: Duration,
    /// A connection on which nothing comes back for this long is as good as lost.
    pub pong_within: Duration,
    /// API Gateway closes every connection after 2 hours.
    pub renew_after: Duration,
    /// How long to wait before connecting again.
    pub backoff: Backoff,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(5 * 60),
            pong_within: Duration::from_secs(20),
            renew_after: Duration::from_secs(110 * 60),
            backoff: Backoff::default(),
        }
    }
}

/// What has happened, for whoever watches.
#[derive(Debug)]
pub enum Happened {
    /// There is a connection.
    Connected,
    /// A fresh connection has taken the place of one that would soon have been closed.
    Renewed,
    /// A message went out.
    Sent(Value),
    /// A message was to go out while there was no connection. It never will: a call is not to start minutes late.
    NotSent(Value),
    /// A message came.
    Received(Value),
    /// Something came that is no JSON.
    Unreadable(String),
    /// The connection is gone.
    Lost(Loss),
    /// A new connection is tried in so long.
    Waiting(Duration),
    /// There was no new connection to be had.
    NotConnected(Error),
    /// How a call stands, asked after the connection was found again.
    Stands {
        /// The call.
        call_id: String,
        /// Its status, or why that is not to be had.
        says: String,
    },
    /// These calls may have changed meanwhile, and there is no HTTP API to ask.
    Unknown(Vec<String>),
}

/// How a connection was lost.
#[derive(Debug)]
pub enum Loss {
    /// It was closed, or broke.
    Gone(Error),
    /// Nothing came back after a ping.
    Deaf,
}

/// A connection that is kept up. It tells `T` what happens, with the time since it was connected.
pub struct Session<T> {
    endpoint: Endpoint,
    pace: Pace,
    tell: T,
    seen: SeenCalls,
    connection: Option<Connection>,
    connected_at: Instant,
    /// Attempts to connect that failed in a row.
    failed: u32,
}

struct Connection {
    client: Client,
    ping_at: Instant,
    pong_by: Option<Instant>,
    /// What will take its place. Under way beside it, so that a slow handshake holds up no message.
    renewal: Opening,
}

/// A connection to be.
type Opening = Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send>>;

/// What a connection's clock asks for.
#[derive(Debug, Clone, Copy)]
enum Due {
    Ping,
    GiveUp,
}

/// What comes next on a connection.
enum Step {
    Received(Result<Value, Error>),
    ToSend(Option<Value>),
    Due(Due),
    Fresh(Box<Result<Connection, Error>>),
}

/// Whether there is more to be sent, now or later.
#[derive(Debug, PartialEq, Eq)]
enum Outgoing {
    Open,
    Over,
}

impl<T: FnMut(Duration, Happened)> Session<T> {
    /// Connects. The first connection is tried once: more often than not, what is wrong then is the URL.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub async fn connect(endpoint: Endpoint, pace: Pace, tell: T) -> Result<Self, Error> {
        let connection = Connection::open(&endpoint, pace).await?;
        let mut session = Self {
            endpoint,
            pace,
            tell,
            seen: SeenCalls::default(),
            connection: None,
            connected_at: Instant::now(),
            failed: 0,
        };
        session.take(connection, Happened::Connected);
        Ok(session)
    }

    /// Sends what comes from `outgoing` and tells what arrives, over as many connections as it takes, until
    /// `outgoing` is over. May be dropped at any time; [`Session::close`] then still closes properly.
    ///
    /// # Errors
    /// When the server refuses a new connection in a way that trying again would not change.
    pub async fn run(&mut self, outgoing: &mut mpsc::Receiver<Value>) -> Result<(), Error> {
        while self.converse(outgoing).await == Outgoing::Open
            && self.reconnect(outgoing).await? == Outgoing::Open
        {}
        Ok(())
    }

    /// Closes the connection, and tells what still arrived.
    pub async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            self.see_off(connection).await;
        }
    }

    /// Goes on until the connection is lost, or nothing more is to be sent.
    async fn converse(&mut self, outgoing: &mut mpsc::Receiver<Value>) -> Outgoing {
        while let Some(connection) = &mut self.connection {
            match connection.next(outgoing).await {
                Step::Received(message) => self.received(message),
                Step::ToSend(Some(message)) => self.send(message).await,
                Step::ToSend(None) => return Outgoing::Over,
                Step::Due(Due::Ping) => self.ping().await,
                Step::Due(Due::GiveUp) => self.lose(Loss::Deaf),
                Step::Fresh(connection) => self.renewed(*connection).await,
            }
        }
        Outgoing::Open
    }

    fn received(&mut self, message: Result<Value, Error>) {
        if let Some(connection) = &mut self.connection {
            connection.pong_by = None;
        }
        match message {
            Ok(message) => self.heard(message),
            Err(Error::NotJson(text)) => self.tell(Happened::Unreadable(text)),
            Err(error) => self.lose(Loss::Gone(error)),
        }
    }

    fn heard(&mut self, message: Value) {
        self.seen.hear(&message);
        self.tell(Happened::Received(message));
    }

    async fn send(&mut self, message: Value) {
        let Some(connection) = &mut self.connection else {
            return self.tell(Happened::NotSent(message));
        };
        match connection.client.send(message.clone()).await {
            Ok(()) => self.tell(Happened::Sent(message)),
            Err(error) => {
                self.tell(Happened::NotSent(message));
                self.lose(Loss::Gone(error));
            }
        }
    }

    async fn ping(&mut self) {
        if let Some(connection) = &mut self.connection {
            let now = Instant::now();
            connection.ping_at = now + self.pace.ping_every;
            connection
                .pong_by
                .get_or_insert(now + self.pace.pong_within);
        }
        self.send(ping()).await;
    }

    /// Nothing is missed: the old connection stands until the fresh one does.
    async fn renewed(&mut self, fresh: Result<Connection, Error>) {
        match fresh {
            Ok(fresh) => {
                let old = self.connection.take();
                self.failed = 0;
                self.take(fresh, Happened::Renewed);
                if let Some(old) = old {
                    self.see_off(old).await;
                }
            }
            Err(error) => {
                self.tell(Happened::NotConnected(error));
                self.failed = self.failed.saturating_add(1);
                let renewal = open_after(self.next_wait(), &self.endpoint, self.pace);
                if let Some(connection) = &mut self.connection {
                    connection.renewal = renewal;
                }
            }
        }
    }

    /// Tries until there is a connection, or nothing more is to be sent.
    async fn reconnect(&mut self, outgoing: &mut mpsc::Receiver<Value>) -> Result<Outgoing, Error> {
        loop {
            let wait = self.next_wait();
            self.tell(Happened::Waiting(wait));
            match self.attempt(wait, outgoing).await {
                None => return Ok(Outgoing::Over),
                Some(Ok(connection)) => {
                    self.take(connection, Happened::Connected);
                    self.catch_up().await;
                    return Ok(Outgoing::Open);
                }
                Some(Err(error)) if error.is_final() => return Err(error),
                Some(Err(error)) => {
                    self.failed = self.failed.saturating_add(1);
                    self.tell(Happened::NotConnected(error));
                }
            }
        }
    }

    fn next_wait(&self) -> Duration {
        self.pace.backoff.wait(self.failed, fastrand::f64())
    }

    /// Waits and then connects, unless nothing more is to be sent. What was to be sent meanwhile never will be.
    async fn attempt(
        &mut self,
        wait: Duration,
        outgoing: &mut mpsc::Receiver<Value>,
    ) -> Option<Result<Connection, Error>> {
        let mut attempt = open_after(wait, &self.endpoint, self.pace);
        loop {
            tokio::select! {
                connection = &mut attempt => return Some(connection),
                message = outgoing.recv() => self.tell(Happened::NotSent(message?)),
            }
        }
    }

    /// Updates that went out while there was no connection do not come again, so the calls are asked about.
    async fn catch_up(&mut self) {
        let Some(http) = &self.endpoint.http else {
            let calls = self.seen.ids();
            if !calls.is_empty() {
                self.tell(Happened::Unknown(calls));
            }
            return;
        };
        for standing in http.standings(&self.seen).await {
            if standing.is_over {
                self.seen.forget(&standing.call_id);
            }
            let (call_id, says) = (standing.call_id, standing.says);
            self.tell(Happened::Stands { call_id, says });
        }
    }

    fn take(&mut self, connection: Connection, happened: Happened) {
        self.connection = Some(connection);
        self.connected_at = Instant::now();
        self.tell(happened);
    }

    async fn see_off(&mut self, connection: Connection) {
        for late in connection.client.close().await {
            self.heard(late);
        }
    }

    fn lose(&mut self, loss: Loss) {
        self.connection = None;
        let lasted = self.connected_at.elapsed();
        self.failed = self.pace.backoff.failed_after(self.failed, lasted);
        self.tell(Happened::Lost(loss));
    }

    fn tell(&mut self, happened: Happened) {
        (self.tell)(self.connected_at.elapsed(), happened);
    }
}

impl Connection {
    async fn open(endpoint: &Endpoint, pace: Pace) -> Result<Self, Error> {
        let client = Client::connect_as(&endpoint.url, &endpoint.credential).await?;
        // Clients that came back together after an outage are not to be renewed together.
        let earlier = pace.renew_after.mul_f64(0.1 * fastrand::f64());
        Ok(Self {
            client,
            ping_at: Instant::now() + pace.ping_every,
            pong_by: None,
            renewal: open_after(pace.renew_after - earlier, endpoint, pace),
        })
    }

    async fn next(&mut self, outgoing: &mut mpsc::Receiver<Value>) -> Step {
        let (at, due) = self.due();
        tokio::select! {
            message = self.client.receive() => Step::Received(message),
            message = outgoing.recv() => Step::ToSend(message),
            () = sleep_until(at) => Step::Due(due),
            connection = &mut self.renewal => Step::Fresh(Box::new(connection)),
        }
    }

    fn due(&self) -> (Instant, Due) {
        match self.pong_by {
            Some(pong_by) if pong_by < self.ping_at => (pong_by, Due::GiveUp),
            _ => (self.ping_at, Due::Ping),
        }
    }
}

fn open_after(wait: Duration, endpoint: &Endpoint, pace: Pace) -> Opening {
    let endpoint = endpoint.clone();
    Box::pin(async move {
        sleep(wait).await;
        Connection::open(&endpoint, pace).await
    })
}
