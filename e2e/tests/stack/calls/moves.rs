//! Phones that move to another address, or register again at the same one, while they are called.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use ringback_sip::{OutgoingCall, Phone};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use ringback_e2e::fixture::{App, Conversation, Fixture, SOON};

/// From the REGISTER of a phone that has moved to its INVITE there.
const REACHED_WITHIN: Duration = Duration::from_secs(2);
/// From the REGISTER of a phone at an address that was unreachable to its INVITE.
const REACHED_AGAIN_WITHIN: Duration = Duration::from_millis(1_500);
/// Long enough for an INVITE to be sent to the old address.
const A_WHILE: Duration = Duration::from_millis(700);
/// The phone's OPTIONS are due every 10 s, and fail after 3 s.
const UNAVAILABLE_WITHIN: Duration = Duration::from_secs(16);

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_leaves_its_udp_address_is_called_at_its_new_one() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let gone = fixture.registered_phone("1001").await?;
    gone.lose_network();
    let (caller, id) = app.is_called().await?;
    let moved = fixture.phone("1001").await?;
    is_reached((&fixture, &app), (caller, id), (moved, REACHED_WITHIN)).await
}

/// The connection breaks without a FIN, so Asterisk continues to send into it.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_whose_connection_has_died_is_called_over_its_new_one() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1003").await?;
    let relay = Relay::towards(fixture.pbx_over_tls()?).await?;
    let account = fixture.stack.phone("1003").context("no such phone")?;
    let ca_pem = &fixture.stack.ari.ca_pem;
    let mut gone = Phone::over_tls(relay.address, "1003", &account.sip_password, ca_pem).await?;
    gone.register().await?;
    relay.stall();
    let (caller, id) = app.is_called().await?;
    let moved = fixture.phone("1003").await?;
    is_reached((&fixture, &app), (caller, id), (moved, REACHED_WITHIN)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_registers_again_at_the_same_address_is_reached_at_once() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let gone = fixture.registered_phone("1001").await?;
    let address = gone.address();
    // Its app is killed, and starts again.
    drop(gone);
    is_unavailable(&fixture, "1001").await?;
    let (caller, id) = app.is_called().await?;
    let password = &fixture
        .stack
        .phone("1001")
        .context("no such phone")?
        .sip_password;
    let again = Phone::at(address, fixture.pbx, "1001", password).await?;
    is_reached(
        (&fixture, &app),
        (caller, id),
        (again, REACHED_AGAIN_WITHIN),
    )
    .await
}

/// The app accepts while nothing answers at the phone's address. Then the phone registers, and must be called within this time.
async fn is_reached(
    (fixture, app): (&Fixture, &App<'_>),
    (caller, id): (OutgoingCall, String),
    (mut phone, within): (Phone, Duration),
) -> Result<()> {
    let accept = app.respond("accept", &id);
    let register = async {
        sleep(A_WHILE).await;
        phone.register().await?;
        let registered = Instant::now();
        let callee = phone.next_call(SOON).await?;
        anyhow::Ok((callee, registered.elapsed()))
    };
    let (accepted, reached) = tokio::join!(accept, register);
    let ((status, answer), (callee, took)) = (accepted?, reached?);
    ensure!(status == StatusCode::OK, "{status}: {answer}");
    println!("reached {took:?} after its REGISTER");
    ensure!(took < within, "reached after {took:?}");
    callee.answer().await?;
    caller.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    let talk = Conversation { id, caller, callee };
    talk.both_hear().await?;
    ensure!(
        phone.next_call(A_WHILE).await.is_err(),
        "the phone was called twice"
    );
    let channels = fixture.channels().await?;
    let legs = channels.iter().filter_map(|channel| channel["id"].as_str());
    let legs: Vec<_> = legs.filter(|leg| leg.contains(&talk.id)).collect();
    ensure!(legs.len() == 1, "{legs:?}");
    talk.end(app).await?;
    Ok(())
}

/// Waits until Asterisk has noticed that the phone is gone.
async fn is_unavailable(fixture: &Fixture, extension: &str) -> Result<()> {
    let look = async {
        while fixture.endpoint_state(extension).await? == "online" {
            sleep(Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    timeout(UNAVAILABLE_WITHIN, look)
        .await
        .context("Asterisk still thinks that the phone is there")?
}

/// Passes on one TCP connection, until it stalls: from then on it passes nothing on, and closes nothing.
struct Relay {
    address: SocketAddr,
    stall: watch::Sender<bool>,
}

impl Relay {
    async fn towards(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((to.ip(), 0)).await?;
        let address = listener.local_addr()?;
        let (stall, mut stalls) = watch::channel(false);
        tokio::spawn(async move {
            let (mut from, _) = listener.accept().await?;
            let mut to = TcpStream::connect(to).await?;
            tokio::select! {
                _ = copy_bidirectional(&mut from, &mut to) => {}
                _ = stalls.wait_for(|stalls| *stalls) => {}
            }
            // Holds both connections open until the test is over.
            let _ = stalls.wait_for(|_| false).await;
            anyhow::Ok(())
        });
        Ok(Self { address, stall })
    }

    fn stall(&self) {
        self.stall.send_replace(true);
    }
}
