//! `ringback doctor`: finds what is wrong with a deployment. A part of the checks runs in the function `doctor`.

mod apis;

use ringback::doctor::{Examination, Fault, Finding};
use serde_json::{Value, json};

use crate::deployment::Deployment;
use crate::failure::{Failure, Result};
use crate::lambda;
use crate::output::Output;
use crate::secret_name::SecretName;

/// AWS lets no account reserve more than all but this many.
const LEAST_CONCURRENCY: u64 = 100;

/// Runs all checks, and returns whether the deployment has no fault.
pub(crate) async fn run(deployment: &Deployment, output: Output) -> Result<bool> {
    let findings = examine(deployment, output).await?;
    if let Some(other) = deployment.parameter("OtherRegion") {
        let here = deployment.region();
        output.note(&format!(
            "These are the parts in {here}. Check the others with `ringback doctor --region {other}`."
        ));
    }
    let document = json!({ "findings": documents(&findings) });
    output.print(&document, &text(&findings))?;
    Ok(findings.is_empty())
}

/// Runs all checks.
pub(crate) async fn examine(deployment: &Deployment, output: Output) -> Result<Vec<Finding>> {
    let mut findings = check_secrets(deployment).await?;
    let lacks = |name: &str| {
        findings
            .iter()
            .any(|finding: &Finding| finding.place == name)
    };
    let has_token = !lacks(SecretName::App.name());
    findings.extend(ask_function(deployment).await?.findings);
    findings.extend(apis::check_http(deployment).await?);
    if has_token {
        match apis::check_websocket(deployment).await? {
            Some(found) => findings.extend(found),
            None => output
                .note("The WebSocket API was not tried: your identity provider makes the tokens."),
        }
    }
    findings.extend(check_concurrency(deployment).await?);
    Ok(findings)
}

/// Each secret has a value that the functions can use.
async fn check_secrets(deployment: &Deployment) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for name in SecretName::ALL {
        // Nothing uses the secret app then.
        if name == SecretName::App && deployment.providers_algorithm().is_some() {
            continue;
        }
        findings.extend(name.fault(deployment).await?);
    }
    Ok(findings)
}

/// What only a function can see.
pub(crate) async fn ask_function(deployment: &Deployment) -> Result<Examination> {
    let answer = lambda::invoke(deployment, "doctor", &json!({})).await?;
    serde_json::from_value(answer).map_err(|_| {
        Failure::not_reachable("The function doctor is of another version: run `sam deploy`.")
    })
}

async fn check_concurrency(deployment: &Deployment) -> Result<Option<Finding>> {
    let left = lambda::unreserved_concurrency(deployment).await?;
    let fault = Fault::Concurrency.at(deployment.region());
    Ok((left < LEAST_CONCURRENCY).then(|| fault.seen(format!("{left} are left"))))
}

/// The findings for scripts.
pub(crate) fn documents(findings: &[Finding]) -> Vec<Value> {
    let documents = findings.iter().map(|finding| {
        let Finding { fault, place, detail } = finding;
        json!({
            "fault": fault.id(), "where": place, "what": fault.what(), "detail": detail, "fix": fault.fix(place),
        })
    });
    documents.collect()
}

/// The findings for people, and how many there are.
pub(crate) fn text(findings: &[Finding]) -> String {
    let texts = findings.iter().map(|finding| {
        let Finding {
            fault,
            place,
            detail,
        } = finding;
        let detail = detail
            .as_ref()
            .map_or_else(String::new, |seen| format!("\n  Seen: {seen}"));
        let (id, what, fix) = (fault.id(), fault.what(), fault.fix(place));
        format!("{id}  {place}\n  {what}{detail}\n  Fix: {fix}\n\n")
    });
    let count = match findings.len() {
        0 => "No fault found.".to_owned(),
        1 => "1 fault found.".to_owned(),
        many => format!("{many} faults found."),
    };
    format!("{}{count}", texts.collect::<String>())
}
