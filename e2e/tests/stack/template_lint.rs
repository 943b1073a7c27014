//! `sam validate --lint` (with cfn-lint) on the template. It needs no running stack, but the SAM CLI, which comes with
//! the stack's tools.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringback_local::settings::Settings;

#[test]
fn sam_validate_and_cfn_lint_accept_the_template() -> Result<()> {
    let settings = Settings::from_environment();
    let sam = match settings.variable("RINGBACK_SAM") {
        Some(path) => path.into(),
        None => Some(settings.tools_dir().join("venv/bin/sam"))
            .filter(|path| path.exists())
            .unwrap_or("sam".into()),
    };
    let output = Command::new(&sam)
        .args([
            "validate",
            "--lint",
            "--region",
            "ap-south-1",
            "--template-file",
            "template.yaml",
        ])
        .env("SAM_CLI_TELEMETRY", "0")
        .current_dir(settings.repository())
        .output()
        .with_context(|| {
            format!(
                "cannot run {}: `make test` installs it; or set RINGBACK_SAM to the path of a SAM CLI",
                sam.display()
            )
        })?;
    let report = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && report.contains("is a valid SAM Template"),
        "{report}"
    );
    Ok(())
}
