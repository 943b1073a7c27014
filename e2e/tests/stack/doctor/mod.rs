//! `ringback doctor` finds each fault of its table, and nothing else. Each one is created in the real parts and taken back.

mod patient;

use anyhow::{Context, Result, ensure};
use axum::Router;
use rcgen::{CertificateParams, KeyPair};
use ringback::doctor::Fault;
use ringback_e2e::fixture::call_sid;
use ringback_e2e::pbx::FrozenPbx;
use ringback_local::credentials::ServiceAccount;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use patient::{OTHER_ARI_USER, Patient, exactly};

const NOWHERE: &str = "http://127.0.0.1:9";
const ARI_CONF: (&str, &str) = ("ringback-site/ari.conf", "res_ari.so");
const DIALPLAN: (&str, &str) = ("extensions.conf", "pbx_config.so");

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_alone_and_a_healthy_stack_has_none() -> Result<()> {
    let patient = Patient::new().await?;
    let healthy = (0, "No fault found.\n".to_owned());
    assert_eq!(patient.text().await?, healthy);
    let mut failures = Vec::new();
    for fault in Fault::ALL {
        if let Err(error) = provoke(&patient, *fault).await {
            failures.push(format!("{}: {error:#}", fault.id()));
        }
    }
    assert_eq!(failures, [""; 0]);
    assert_eq!(patient.text().await?, healthy, "a fault stayed");
    Ok(())
}

/// Each fault must have its way here.
async fn provoke(patient: &Patient, fault: Fault) -> Result<()> {
    let fixture = &patient.fixture;
    let both = &["pbx1", "pbx2"];
    match fault {
        Fault::SecretMissing => {
            let seen = patient.without_value("fcm").await?;
            exactly(&seen, fault, &["fcm"])
        }
        Fault::SecretUnusable => {
            let seen = patient.with_secret_text("signing", "hush").await?;
            exactly(&seen, fault, &["signing"])?;
            let without = |value: &mut Value| {
                let fields = value.as_object_mut();
                fields.map(|fields| fields.remove("caller_id"));
            };
            let seen = patient.with_secret("exotel", without).await?;
            exactly(&seen, fault, &["exotel"])?;
            let example = |value: &mut Value| value["webhook_secret_previous"] = "change-me".into();
            let seen = patient.with_secret("webhook", example).await?;
            exactly(&seen, fault, &["webhook"])
        }
        Fault::AriUnreachable => {
            let frozen = FrozenPbx::stop(fixture, 1)?;
            let seen = patient.findings().await?;
            drop(frozen);
            exactly(&seen, fault, &["pbx2"])
        }
        Fault::AriCertificate => {
            let other = CertificateParams::default().self_signed(&KeyPair::generate()?)?;
            let change = |value: &mut Value| value["ari_ca_pem"] = other.pem().into();
            let seen = patient.with_secret("asterisk", change).await?;
            exactly(&seen, fault, both)
        }
        Fault::AriPassword => {
            let change = |value: &mut Value| value["ari_password"] = "wrong".into();
            let seen = patient.with_secret("asterisk", change).await?;
            exactly(&seen, fault, both)
        }
        Fault::AriRefused => {
            let password = call_sid();
            let user = format!(
                "[{OTHER_ARI_USER}]\ntype = user\nread_only = yes\npassword = {password}\n"
            );
            let add = |text: &str| format!("{text}\n{user}");
            let first = patient.change_file(0, ARI_CONF, add).await?;
            let second = patient.change_file(1, ARI_CONF, add).await?;
            let change = |value: &mut Value| {
                value["ari_username"] = OTHER_ARI_USER.into();
                value["ari_password"] = password.as_str().into();
            };
            let seen = patient.with_secret("asterisk", change).await;
            patient.change_file(0, ARI_CONF, |_| first).await?;
            patient.change_file(1, ARI_CONF, |_| second).await?;
            exactly(&seen?, fault, both)
        }
        Fault::DialplanIncomplete => {
            for context in ["incoming-calls", "ringback-doctor"] {
                let without = |text: &str| text.replace(&format!("[{context}]"), "[other]");
                let seen = patient.with_file(0, DIALPLAN, without).await?;
                exactly(&seen, fault, &["pbx1"]).context(context)?;
            }
            Ok(())
        }
        Fault::HookUnreachable => {
            for url in ["RINGBACK_HOOK_URL", "RINGBACK_FALLBACK_HOOK_URL"] {
                let seen = patient.with_global(0, url, NOWHERE).await?;
                exactly(&seen, fault, &["pbx1"]).context(url)?;
            }
            Ok(())
        }
        Fault::HookRefused => {
            let seen = patient
                .with_global(1, "RINGBACK_HOOK_SECRET", "wrong")
                .await?;
            exactly(&seen, fault, &["pbx2"])
        }
        Fault::PbxName => {
            for name in ["pbx2", "office"] {
                let seen = patient.with_global(0, "RINGBACK_PBX", name).await?;
                exactly(&seen, fault, &["pbx1"]).context(name)?;
            }
            Ok(())
        }
        Fault::PbxWait => {
            let seen = patient
                .with_global(0, "RINGBACK_MAX_WAIT_SECONDS", "20")
                .await?;
            exactly(&seen, fault, &["pbx1"])
        }
        Fault::FcmUnreachable => {
            fixture
                .fcm_behaves(&json!({ "send": [{ "status": 503 }] }))
                .await?;
            let seen = patient.findings().await;
            fixture.fcm_behaves(&json!({})).await?;
            exactly(&seen?, fault, &["FCM"])
        }
        Fault::FcmRefused => {
            let change = |value: &mut Value| value["project_id"] = "another".into();
            let seen = patient.with_secret("fcm", change).await?;
            exactly(&seen, fault, &["FCM"]).context("another project")?;
            let account = ServiceAccount::generate(NOWHERE)?;
            let change = |value: &mut Value| value["private_key"] = account.private_key_pem.into();
            let seen = patient.with_secret("fcm", change).await?;
            exactly(&seen, fault, &["FCM"]).context("a revoked key")
        }
        Fault::ExotelUnreachable => {
            let fails = json!({ "details": [{ "status": 503 }] });
            fixture.exotel_behaves(&fails).await?;
            let seen = patient.findings().await;
            fixture.exotel_behaves(&json!({})).await?;
            exactly(&seen?, fault, &["Exotel"])
        }
        Fault::ExotelRefused => {
            let change = |value: &mut Value| value["api_token"] = "wrong".into();
            let seen = patient.with_secret("exotel", change).await?;
            exactly(&seen, fault, &["Exotel"])
        }
        Fault::NoRoute => {
            let seen = patient.without_entries("NUMBERS").await?;
            exactly(&seen, fault, &["numbers"])
        }
        Fault::NoTelephone => {
            let seen = patient.without_entries("EXTENSIONS").await?;
            exactly(&seen, fault, &["extensions"])
        }
        Fault::RouteWithoutDevice => {
            let seen = patient.without_device("1003").await?;
            exactly(&seen, fault, &["1003"])
        }
        Fault::SnsMissing => {
            let arn = "arn:aws:sns:ap-south-1:000000000000:app/APNS_VOIP/missing";
            let seen = with_application(patient, arn).await?;
            exactly(&seen, fault, &[arn])
        }
        Fault::SnsDisabled => {
            let arn = application(patient, "Enabled", "false").await?;
            let seen = with_application(patient, &arn).await?;
            exactly(&seen, fault, &[&arn])
        }
        Fault::SnsCertificate => {
            let ends = ("AppleCertificateExpirationDate", "2026-11-01T23:59:59.000Z");
            let arn = application(patient, ends.0, ends.1).await?;
            let seen = with_application(patient, &arn).await?;
            exactly(&seen, fault, &[&arn])
        }
        Fault::HttpUnreachable => {
            for url in [NOWHERE.to_owned(), foreign_server().await?] {
                let seen = patient.at(|stack| stack.http_url = url.clone()).await?;
                exactly(&seen, fault, &[&url])?;
            }
            Ok(())
        }
        Fault::WebSocketUnreachable => {
            let url = "ws://127.0.0.1:9";
            let seen = patient.at(|stack| stack.ws_url = url.to_owned()).await?;
            exactly(&seen, fault, &[url])
        }
        Fault::Concurrency => {
            let seen = patient.with_concurrency(90).await?;
            exactly(&seen, fault, &[&fixture.stack.aws.region])
        }
    }
}

/// A new platform application in the local SNS, with an attribute that AWS would set.
async fn application(patient: &Patient, name: &str, value: &str) -> Result<String> {
    let sns = aws_sdk_sns::Client::new(&patient.fixture.aws);
    let create = sns.create_platform_application().name(call_sid());
    let create = create.platform("APNS_VOIP").attributes(name, value);
    let arn = create.send().await?.platform_application_arn;
    arn.context("its ARN")
}

async fn with_application(patient: &Patient, arn: &str) -> Result<Vec<(String, String)>> {
    patient
        .with_variable("SNS_APNS_VOIP_APPLICATION_ARN", arn)
        .await
}

/// A web server that is not Ringback's.
async fn foreign_server() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let app = Router::new().fallback(async || "Welcome");
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_says_where_what_and_the_fix_and_no_secret() -> Result<()> {
    let patient = Patient::new().await?;
    let before = patient.fixture.secret("exotel").await?;
    let fails = json!({ "details": [{ "status": 503, "times": 2 }] });
    patient.fixture.exotel_behaves(&fails).await?;
    let (code, text) = patient.text().await?;
    patient.fixture.exotel_behaves(&json!({})).await?;
    let fault = Fault::ExotelUnreachable;
    ensure!(code == 1, "{code}");
    let fix = fault
        .fix("Exotel")
        .replace("`ringback ", "`ringback --local ");
    for part in [
        "exotel_unreachable  Exotel\n",
        fault.what(),
        &fix,
        "1 fault found.",
    ] {
        ensure!(text.contains(part), "{part:?} is not in {text}");
    }
    for (name, value) in before.as_object().context("fields")? {
        let value = value.as_str().context("a text")?;
        ensure!(!text.contains(value), "{name} is in {text}");
    }
    Ok(())
}
