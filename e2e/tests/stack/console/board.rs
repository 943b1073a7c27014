//! The call board: which calls a viewer sees, and what happens when messages are lost, repeated or reordered.

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue::S;
use ringback_sip::Caller;
use serde_json::{Value, json};

use super::page::{Page, SOON};
use ringback_e2e::fixture::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_name_is_shown_as_text_and_fits_on_a_phone_screen() -> Result<()> {
    let fixture = Fixture::open().await?;
    let page = Page::open(&fixture).await?;
    let screen = json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true });
    page.browser
        .devtools("Emulation.setDeviceMetricsOverride", screen)
        .await?;
    page.switch_on().await?;
    let name = "<img src=x onerror=alert(1)><b>Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    page.browser.fill("#caller-name", name).await?;
    page.click("#dial button").await?;
    page.shows("#phone-state", "<img src=x onerror=alert(1)><b>A")
        .await?;
    page.shows("#board h3", "<img src=x onerror=alert(1)><b>A")
        .await?;
    page.shows("#pushes", "<img src=x onerror=alert(1)><b>A")
        .await?;
    let made = page
        .measured("document.querySelectorAll('main img, main b').length")
        .await?;
    assert_eq!(made, 0);
    page.browser
        .run(
            "for (const one of document.querySelectorAll('details')) one.open = true",
            json!([]),
        )
        .await?;
    let wide = "[...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.closest('.unseen, .skip')
        && one.getBoundingClientRect().right > 360.5).map((one) => one.outerHTML.slice(0, 90))";
    assert_eq!(page.measured(wide).await?, json!([]));
    assert_eq!(
        page.measured("document.documentElement.scrollWidth")
            .await?,
        360
    );
    page.click("#decline").await?;
    page.latest_is("Declined").await?;
    page.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_without_a_part_in_a_call_sees_no_numbers_and_no_timeline() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let page = Page::open(&fixture).await?;
    page.choose("#viewer-of", "1002").await?;
    page.is_live().await?;
    let caller = fixture
        .dial_as("1001", Caller::number("+919876543210"), None)
        .await?;
    app.receives_call().await?;
    page.latest_is("Ringing").await?;
    page.shows("#board .note", "You are not a participant of this call")
        .await?;
    let card = page.text("#board > .call").await?;
    ensure!(card.contains("**10") && !card.contains("98765"), "{card}");
    ensure!(!card.contains("PushSender went out"), "{card}");
    caller.cancel().await?;
    page.latest_is("Canceled").await?;
    page.complains_only_of("403").await?;
    page.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_restored_and_missed_changes_are_fetched() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let page = Page::open(&fixture).await?;
    // Count the requests, so that none is in progress when the network is cut.
    let count = "window.asked = 0; window.realFetch = fetch;
        window.fetch = (...all) => { asked += 1; return realFetch(...all).finally(() => { asked -= 1 }) }";
    page.browser.run(count, json!([])).await?;
    let (caller, id) = app.is_called().await?;
    page.latest_is("Ringing").await?;
    page.shows("#board .timeline", "Push sent to").await?;
    // Close the timeline.
    page.click("#board summary").await?;
    page.browser.until("asked === 0", SOON).await?;
    // Cut the network until the call has changed.
    let cut = "window.states = []; window.RealSocket = WebSocket;
        window.WebSocket = class { constructor() { throw new Error('no network') } };
        WebSocket.OPEN = 1; window.fetch = async () => { throw new Error('no network') };
        new MutationObserver(() => states.push(document.querySelector('#connection').textContent))
            .observe(document.querySelector('#connection'), { attributes: true })";
    page.browser.run(cut, json!([])).await?;
    close_all_connections(&fixture).await?;
    let disconnected = "states.includes('Disconnected, reconnecting')";
    page.browser.until(disconnected, SOON).await?;
    caller.cancel().await?;
    app.wait_for_status(&id, "canceled").await?;
    page.latest_is("Ringing").await?;
    page.browser
        .run(
            "window.WebSocket = RealSocket; window.fetch = realFetch; dispatchEvent(new Event('online'))",
            json!([]),
        )
        .await?;
    page.is_live().await?;
    page.latest_is("Canceled").await?;
    page.complains_only_of("no network").await?;
    page.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_ended_before_the_page_was_opened_are_listed() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let (caller, id) = app.is_called().await?;
    caller.cancel().await?;
    app.wait_for_status(&id, "canceled").await?;
    let page = Page::open(&fixture).await?;
    let latest = "document.querySelector('#recent ol > li')";
    let shows_it = format!("{latest}?.dataset.call === {}", json!(id));
    page.browser.until(&shows_it, SOON).await?;
    page.shows("#recent ol > li", "Canceled: the caller hung up")
        .await?;
    page.browser.fill("#recent-extension", "10/01").await?;
    page.click("#recent form button").await?;
    page.shows("#recent .note", "could not be loaded").await?;
    assert_eq!(page.measured(&format!("{latest} === null")).await?, true);
    page.complains_only_of("400").await?;
    page.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_recent_calls_grows_by_pages_and_forgets_another_extension() -> Result<()> {
    let fixture = Fixture::open().await?;
    let page = Page::open(&fixture).await?;
    let script = "const { RecentCalls } = await import('/console/recent.js');
        // A copy, because the page fills its own list at the same time.
        const section = document.querySelector('#recent').cloneNode(true);
        const call = (id) => ({ call_id: id, status: 'timed_out', created_at: 0, extension: '1', caller_number: 'anonymous' });
        const asked = [], waiting = [];
        const answer = (calls, next) => waiting.shift()({ ok: true, status: 200, body: { calls: calls.map(call), next } });
        const api = (method, path) => { asked.push(path); return new Promise((done) => waiting.push(done)); };
        const shown = () => [...section.querySelectorAll('ol > li')].map((line) => line.dataset.call).join();
        const settle = () => new Promise((done) => setTimeout(done));
        const recent = new RecentCalls(section, api), older = section.querySelector('.older');
        recent.show('1'); recent.show('2');
        answer(['of 1'], 'x'); answer(['c', 'b'], 'n'); await settle();
        const first = [shown(), older.hidden];
        older.click(); answer(['a'], null); await settle();
        return { asked, first, then: [shown(), older.hidden], text: section.querySelector('ol > li').textContent };";
    let result = page.browser.run(script, json!([])).await?;
    assert_eq!(result["first"], json!(["c,b", false]));
    assert_eq!(result["then"], json!(["c,b,a", true]));
    let asked = ["?extension=1", "?extension=2", "?extension=2&next=n"];
    assert_eq!(
        result["asked"],
        json!(asked.map(|query| format!("api/calls{query}")))
    );
    let text = result["text"].as_str().context("no text")?;
    ensure!(text.contains("Number withheld → 1"), "{text}");
    ensure!(text.contains("Not answered"), "{text}");
    page.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_focus_stays_when_calls_change_their_order() -> Result<()> {
    let fixture = Fixture::open().await?;
    let page = Page::open(&fixture).await?;
    let script = "const { arrange } = await import('/console/draw.js');
        const list = document.createElement('ol');
        document.body.append(list);
        const [one, two, three] = ['one', 'two', 'three'].map((id) => {
          const item = document.createElement('li');
          item.append(Object.assign(document.createElement('button'), { id }));
          return item;
        });
        arrange(list, [one, two, three]);
        return ['one', 'two', 'three'].map((id) => {
          document.getElementById(id).focus();
          arrange(list, [three, two, one]);
          arrange(list, [one, two, three]);
          return document.activeElement.id;
        });";
    let focused = page.browser.run(script, json!([])).await?;
    assert_eq!(focused, json!(["one", "two", "three"]));
    page.close().await
}

/// Closes every connection on the server's side, as API Gateway does after two hours.
async fn close_all_connections(fixture: &Fixture) -> Result<()> {
    let items = aws_sdk_dynamodb::Client::new(&fixture.aws)
        .query()
        .table_name(&fixture.stack.aws.table)
        .key_condition_expression("pk = :pk")
        .expression_attribute_values(":pk", S("OPERATORS".to_owned()))
        .send()
        .await?;
    ensure!(!items.items().is_empty(), "no client is connected");
    let management = management_url(fixture).await?;
    let config =
        aws_sdk_apigatewaymanagement::config::Builder::from(&fixture.aws).endpoint_url(management);
    let client = aws_sdk_apigatewaymanagement::Client::from_conf(config.build());
    for item in items.items() {
        let name = item["sk"].as_s().ok().and_then(|sk| sk.rsplit('#').next());
        let id = name.context("the connection has no id")?;
        // Some connections are closed already.
        let _ = client.delete_connection().connection_id(id).send().await;
    }
    Ok(())
}

/// The endpoint at which the functions reach connections, from the template.
async fn management_url(fixture: &Fixture) -> Result<String> {
    let url = format!(
        "{}/2015-03-31/functions/{}-broadcast/configuration",
        fixture.stack.aws.endpoint,
        ringback_local::settings::STACK_NAME
    );
    let configuration: Value = fixture.http.get(url).send().await?.json().await?;
    let url = configuration["Environment"]["Variables"]["WS_MANAGEMENT_URL"].as_str();
    Ok(url.context("WS_MANAGEMENT_URL")?.to_owned())
}

/// Messages can arrive in another order and twice. This tests the page's own rules for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_only_moves_forward_in_any_order_of_messages() -> Result<()> {
    let fixture = Fixture::open().await?;
    let page = Page::open(&fixture).await?;
    let script = "const { Calls } = await import('/console/calls.js');
        const { backoff } = await import('/console/connection.js');
        const update = (status, second) => ({ callId: 'a', status, from: '1', to: '2', timestamp: `2026-11-21T08:00:0${second}Z` });
        const ring = update('ringing', 1), talk = update('in-progress', 2), end = update('completed', 3);
        const orders = [[ring, talk, end], [end, talk, ring], [talk, ring, end], [end, ring, talk], [ring, end, talk], [talk, end, ring]];
        const outcomes = orders.map((order) => {
            const calls = new Calls();
            for (const message of [...order, ...order]) calls.applyUpdate(message);
            const [call] = calls.all();
            return `${call.status} ${call.at - call.began}`;
        });
        const calls = new Calls();
        const news = [ring, ring, talk, ring, end, end, talk].map((message) => calls.applyUpdate(message) !== undefined);
        const same = new Calls();
        for (const message of [update('in-progress', 1), ring]) same.applyUpdate(message);
        const bad = [null, {}, { callId: 'b' }, { ...ring, timestamp: 'soon' }, { ...ring, callId: 7 }].map((one) => calls.applyUpdate(one));
        const longest = [0, 1, 5, 6, 7, 1000].map((failed) => backoff(failed, 1));
        return { outcomes, news, same: same.all()[0].status, bad, kept: calls.all().length, longest };";
    let result = page.browser.run(script, json!([])).await?;
    assert_eq!(result["outcomes"], json!(vec!["completed 2000"; 6]));
    assert_eq!(
        result["news"],
        json!([true, false, true, false, true, false, false])
    );
    // Also within the same second: the timestamps of status updates have no finer resolution.
    assert_eq!(result["same"], "in-progress");
    assert_eq!(
        (&result["bad"], &result["kept"]),
        (&json!([null, null, null, null, null]), &json!(1))
    );
    assert_eq!(
        result["longest"],
        json!([1000, 2000, 32_000, 60_000, 60_000, 60_000])
    );
    page.close().await
}
