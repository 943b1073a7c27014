//! Numbers that admins change: what calls do then, who may, and what several admins at once get.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use ringback_e2e::fixture::{Fixture, SOON, call_sid, status_and_body, unused_mobile_number};
use serde_json::{Value, json};

const CREATE: Option<(&str, &str)> = Some(("if-none-match", "*"));

/// Requests of an admin.
pub(crate) struct Admin<'a> {
    pub(crate) fixture: &'a Fixture,
}

impl Admin<'_> {
    /// Sends a request with this header, and checks that its `ETag` is also in the body.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        header: Option<(&str, &str)>,
        body: Option<Value>,
    ) -> Result<(u16, Value)> {
        let url = format!("{}/api/admin/{path}", self.fixture.stack.http_url);
        let request = self.fixture.http.request(method, url);
        let mut request = request.bearer_auth(&self.fixture.stack.admin.token);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let etag = answer.headers().get("etag").cloned();
        let (status, body) = status_and_body(answer).await?;
        let etag = etag.as_ref().map(|etag| etag.to_str()).transpose()?;
        assert_eq!(body["etag"].as_str(), etag, "{body}");
        Ok((status.as_u16(), body))
    }

    /// Leads a number to an extension.
    pub(crate) async fn route(
        &self,
        number: &str,
        header: Option<(&str, &str)>,
        extension: &str,
    ) -> Result<(u16, Value)> {
        let body = json!({ "extension": extension });
        let path = format!("numbers/{number}");
        self.ask(Method::PUT, &path, header, Some(body)).await
    }

    /// The changes of this number: the values before and after, the newest first.
    async fn changes_of(&self, number: &str) -> Result<Vec<(Value, Value)>> {
        let (status, audit) = self.ask(Method::GET, "audit", None, None).await?;
        ensure!(status == 200, "{audit}");
        let changes = audit["changes"].as_array().context("no changes")?.iter();
        let of_number = changes.filter(|change| change["key"] == number);
        Ok(of_number
            .map(|change| {
                assert_eq!(
                    (&change["by"], &change["directory"]),
                    (&json!("admin"), &json!("numbers"))
                );
                (change["before"].clone(), change["after"].clone())
            })
            .collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routed_number_rings_at_the_next_call_and_a_deleted_route_ends_no_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let admin = Admin { fixture: &fixture };
    let app = fixture.app("1001").await?;
    let number = unused_mobile_number();
    // As a person copies it, with the space at its end.
    let national = format!("0{}%20{}%20", &number[3..8], &number[8..]);
    let (status, created) = admin.route(&national, CREATE, "1001").await?;
    ensure!(status == 200 && created["number"] == *number, "{created}");

    let caller = fixture.dial_number(&number).await?;
    let id = app.receives_call().await?;
    let etag = created["etag"].as_str().context("an ETag")?;
    let path = format!("numbers/{}", number.replace('+', "%2B"));
    let (status, answer) = admin
        .ask(Method::DELETE, &path, Some(("if-match", etag)), None)
        .await?;
    ensure!(status == 200, "{answer}");
    let mut phone = fixture.registered_phone("1001").await?;
    app.respond("accept_ready", &id).await?;
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    caller.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    caller.hang_up().await?;
    app.wait_for_status(&id, "completed").await?;
    app.unregister().await?;

    let (status, answer) = fixture
        .passthru(&call_sid(), &unused_mobile_number(), &number)
        .await?;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::FOUND, &json!("number_not_routed"))
    );
    let changes = admin.changes_of(&number).await?;
    assert_eq!(
        changes,
        [(json!("1001"), Value::Null), (Value::Null, json!("1001"))]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_does_not_hold_changes_nothing_and_a_repeated_change_is_done() -> Result<()>
{
    let fixture = Fixture::open().await?;
    let admin = Admin { fixture: &fixture };
    let number = unused_mobile_number();
    let path = format!("numbers/{number}");
    let (_, missing) = admin.ask(Method::DELETE, &path, None, None).await?;
    assert_eq!(missing["code"], "no_such_entry");
    let (_, created) = admin.route(&number, None, "1001").await?;
    let first = created["etag"].as_str().context("an ETag")?;
    let (status, taken) = admin.route(&number, CREATE, "1002").await?;
    assert_eq!((status, &taken["code"]), (412, &json!("changed")));
    assert_eq!(
        taken["current"],
        json!({ "number": number, "extension": "1001", "etag": first })
    );
    for _ in 0..2 {
        let (status, moved) = admin
            .route(&number, Some(("if-match", first)), "1002")
            .await?;
        ensure!(status == 200 && moved["etag"] != *first, "{moved}");
    }
    let stale = admin.ask(Method::DELETE, &path, Some(("if-match", first)), None);
    ensure!(stale.await?.0 == 412);
    let (status, found) = admin.ask(Method::GET, &path, None, None).await?;
    ensure!(status == 200 && found["extension"] == "1002", "{found}");
    let (status, _) = admin.ask(Method::DELETE, &path, None, None).await?;
    ensure!(status == 200);
    assert_eq!(admin.ask(Method::GET, &path, None, None).await?.0, 404);
    assert_eq!(admin.changes_of(&number).await?.len(), 3);
    Ok(())
}

/// Reads a list to its end.
async fn listed(admin: &Admin<'_>, kind: &str, name: &str) -> Result<Vec<String>> {
    let (mut keys, mut next) = (Vec::new(), String::new());
    loop {
        let (status, page) = admin
            .ask(Method::GET, &format!("{kind}{next}"), None, None)
            .await?;
        ensure!(status == 200, "{page}");
        let entries = page[kind].as_array().context("no entries")?.iter();
        keys.extend(
            entries
                .filter_map(|entry| entry[name].as_str())
                .map(str::to_owned),
        );
        match page["next"].as_str() {
            Some(token) => next = format!("?next={token}"),
            None => return Ok(keys),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_every_entry_once_in_order() -> Result<()> {
    let fixture = Fixture::open().await?;
    let admin = Admin { fixture: &fixture };
    let numbers: BTreeSet<String> = (0..110).map(|_| unused_mobile_number()).collect();
    for several in numbers.iter().collect::<Vec<_>>().chunks(10) {
        let routed = several
            .iter()
            .map(|number| admin.route(number, CREATE, "1001"));
        try_join_all(routed).await?;
    }
    let all = listed(&admin, "numbers", "number").await?;
    ensure!(all.is_sorted() && numbers.iter().all(|number| all.contains(number)));
    ensure!(all.len() == all.iter().collect::<BTreeSet<_>>().len());
    for number in &numbers {
        admin
            .ask(Method::DELETE, &format!("numbers/{number}"), None, None)
            .await?;
    }

    let extension = format!("admin-{}", call_sid());
    let path = format!("extensions/{extension}");
    let body = json!({ "number": "098000 01001" });
    let (status, stored) = admin.ask(Method::PUT, &path, None, Some(body)).await?;
    ensure!(
        status == 200 && stored["number"] == "+919800001001",
        "{stored}"
    );
    let all = listed(&admin, "extensions", "extension").await?;
    ensure!(
        all.contains(&extension) && all.contains(&"1001".to_owned()),
        "{all:?}"
    );
    admin.ask(Method::DELETE, &path, None, None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_twenty_changes_of_one_value_exactly_one_wins_and_is_audited() -> Result<()> {
    let fixture = Fixture::open().await?;
    let admin = Admin { fixture: &fixture };
    let number = unused_mobile_number();
    let (_, created) = admin.route(&number, CREATE, "1001").await?;
    let etag = created["etag"].as_str().context("an ETag")?;
    let extensions: Vec<String> = (0..20).map(|n| format!("rival-{n}")).collect();
    let rivals = extensions
        .iter()
        .map(|it| admin.route(&number, Some(("if-match", etag)), it));
    let answers = try_join_all(rivals).await?;
    let winners: Vec<&Value> = answers
        .iter()
        .filter(|(status, _)| *status == 200)
        .map(|(_, answer)| &answer["extension"])
        .collect();
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    let [winner] = *winners else {
        anyhow::bail!("{statuses:?}");
    };
    ensure!(
        statuses.iter().filter(|status| **status == 412).count() == 19,
        "{statuses:?}"
    );
    let (_, found) = admin
        .ask(Method::GET, &format!("numbers/{number}"), None, None)
        .await?;
    assert_eq!(found["extension"], *winner);
    let changes = admin.changes_of(&number).await?;
    assert_eq!(
        changes,
        [
            (json!("1001"), winner.clone()),
            (Value::Null, json!("1001"))
        ]
    );
    admin
        .ask(Method::DELETE, &format!("numbers/{number}"), None, None)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_changes_nothing_and_its_answer_names_the_field() -> Result<()> {
    let fixture = Fixture::open().await?;
    let admin = Admin { fixture: &fixture };
    let number = unused_mobile_number();
    let path = format!("numbers/{number}");
    for (path, header, body, status, named) in [
        (
            &*path,
            None,
            json!({ "extension": "10 01" }),
            400,
            "extension ",
        ),
        (
            &path,
            None,
            json!({ "extension": "1001", "ext": 1 }),
            400,
            "ext is not",
        ),
        (&path, None, json!({}), 400, "extension "),
        (
            &path,
            Some(("if-match", "1")),
            json!({ "extension": "1001" }),
            400,
            "If-Match ",
        ),
        (
            &path,
            Some(("if-none-match", "\"1\"")),
            json!({ "extension": "1001" }),
            400,
            "If-None-Match ",
        ),
        (
            "numbers/+91804749",
            None,
            json!({ "extension": "1001" }),
            400,
            "number ",
        ),
        (
            "numbers/x",
            None,
            json!({ "extension": "1001" }),
            400,
            "number ",
        ),
        (
            "extensions/10%2001",
            None,
            json!({ "number": number }),
            400,
            "extension ",
        ),
        (
            "extensions/1001",
            None,
            json!({ "number": "+14155550123" }),
            400,
            "number ",
        ),
        ("audit/1", None, json!({}), 404, "there is no such route"),
    ] {
        let (found, answer) = admin.ask(Method::PUT, path, header, Some(body)).await?;
        let error = answer["error"].as_str().unwrap_or_default();
        ensure!(
            found == status && error.starts_with(named),
            "{path}: {found} {answer}"
        );
    }
    assert_eq!(admin.ask(Method::GET, &path, None, None).await?.0, 404);
    for (list, status) in [
        ("numbers?next=x", 400),
        ("audit?next=", 400),
        ("calls", 404),
    ] {
        assert_eq!(
            admin.ask(Method::GET, list, None, None).await?.0,
            status,
            "{list}"
        );
    }
    Ok(())
}
