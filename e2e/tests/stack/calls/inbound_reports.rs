//! One call is reported by Exotel's webhook and by the PBX's webhook: in any order, by only one of them, and more than
//! once.

use anyhow::Result;
use reqwest::StatusCode;
use reqwest::multipart::Form;
use ringback_sip::Caller;
use serde_json::json;

use ringback_e2e::fixture::{CALLER, Fixture, SOON, call_sid, status_and_body};

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_sent_three_times_makes_one_call_and_one_ring() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let sid = call_sid();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (status, answer) = fixture
            .passthru(&sid, "09876543210", fixture.number_of("1001"))
            .await?;
        assert_eq!(status, StatusCode::OK);
        ids.push(answer["call_id"].as_str().unwrap().to_owned());
    }
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(app.receives_call().await?, ids[0]);
    assert_eq!(app.count_pushes("incoming_call").await?, 1);
    end_by_exotel(&fixture, &sid).await?;
    // A repeated report after the end makes no phone ring.
    fixture
        .passthru(&sid, "09876543210", fixture.number_of("1001"))
        .await?;
    assert_eq!(app.count_pushes("incoming_call").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_one_caller_in_any_order_make_one_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    for (exotel_first, pbx_knows_sid) in
        [(true, true), (false, true), (true, false), (false, false)]
    {
        let sid = call_sid();
        let pbx_sid = pbx_knows_sid.then_some(sid.as_str());
        let rings_before = app.count_pushes("incoming_call").await?;
        let caller = if exotel_first {
            fixture
                .passthru(&sid, "09876543210", fixture.number_of("1001"))
                .await?;
            fixture
                .dial_as("1001", Caller::number(CALLER), pbx_sid)
                .await?
        } else {
            let caller = fixture
                .dial_as("1001", Caller::number(CALLER), pbx_sid)
                .await?;
            app.push("incoming_call").await?;
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            fixture
                .passthru(&sid, "09876543210", fixture.number_of("1001"))
                .await?;
            caller
        };
        let (_, answer) = fixture
            .passthru(&sid, "09876543210", fixture.number_of("1001"))
            .await?;
        let id = answer["call_id"].as_str().unwrap();
        let case =
            format!("Exotel first: {exotel_first}, the PBX knows the CallSid: {pbx_knows_sid}");
        assert_eq!(
            app.count_pushes("incoming_call").await?,
            rings_before + 1,
            "{case}"
        );
        // The leg belongs to that call: declining the call rejects this caller with busy.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let (status, answer) = app.respond_without_device("decline", id).await?;
        assert_eq!(status, StatusCode::OK, "{case}: {answer}");
        assert_eq!(caller.rejected(SOON).await?.0, 486, "{case}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_exotels_report_is_accepted() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let url = &fixture.stack.exotel_webhook_url;
    let to = fixture.number_of("1001");
    let post = || fixture.http.post(url);
    let fields = |sid: &str| json!({ "CallSid": sid, "EventType": "answered", "Status": "in-progress", "From": "09876543210", "To": to, "Direction": "inbound" });
    for form in ["form", "multipart", "json", "passthru json"] {
        let sid = call_sid();
        let fields = fields(&sid);
        let request = match form {
            "form" => post().form(&fields),
            "multipart" => {
                let parts = fields.as_object().unwrap().iter();
                post().multipart(parts.fold(Form::new(), |form, (name, value)| {
                    form.text(name.clone(), value.as_str().unwrap().to_owned())
                }))
            }
            "json" => post().json(&fields),
            _ => post().json(&json!({ "CallSid": sid, "CallFrom": "09876543210", "CallTo": to, "Direction": "incoming" })),
        };
        let (status, answer) = status_and_body(request.send().await?).await?;
        assert_eq!(
            (status, &answer["status"]),
            (StatusCode::OK, &"waiting_for_mobile".into()),
            "{form}: {answer}"
        );
        let id = answer["call_id"].as_str().unwrap();
        end_by_exotel(&fixture, &sid).await?;
        assert_eq!(app.call(id).await?["status"], "canceled", "{form}");
    }
    assert_eq!(app.count_pushes("incoming_call").await?, 4);
    assert_eq!(app.count_pushes("call_cancelled").await?, 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_in_the_webhook_url_needs_no_route() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let sid = call_sid();
    let url = format!(
        "{}&extension=1002&CallSid={sid}&CallFrom=09876543210",
        fixture.stack.exotel_webhook_url
    );
    let (status, answer) = status_and_body(fixture.http.get(url).send().await?).await?;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        app.receives_call().await?,
        answer["call_id"].as_str().unwrap()
    );
    end_by_exotel(&fixture, &sid).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_reported_under_another_call_ends_nothing() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let caller = fixture
        .dial_as("1001", Caller::number(CALLER), None)
        .await?;
    let id = app.receives_call().await?;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let number = fixture.number_of("1001").to_owned();
    let other_leg = [
        ("channel_id", "1.999"),
        ("caller", CALLER),
        ("number", number.as_str()),
        ("cause", "16"),
        ("answered", "0"),
    ];
    assert_eq!(
        fixture.pbx_reports("ended", &other_leg).await?.0,
        StatusCode::CONFLICT
    );
    assert_eq!(app.call(&id).await?["status"], "waiting_for_mobile");
    caller.cancel().await?;
    app.wait_for_status(&id, "canceled").await?;
    Ok(())
}

async fn end_by_exotel(fixture: &Fixture, sid: &str) -> Result<()> {
    let form = [
        ("CallSid", sid),
        ("EventType", "terminal"),
        ("Status", "no-answer"),
        ("Direction", "inbound"),
    ];
    let answer = fixture
        .http
        .post(&fixture.stack.exotel_webhook_url)
        .form(&form)
        .send()
        .await?;
    assert_eq!(answer.status(), StatusCode::OK);
    Ok(())
}
