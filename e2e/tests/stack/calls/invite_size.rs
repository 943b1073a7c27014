//! The INVITE to a phone over UDP fits into 1,300 bytes (RFC 3261, section 18.1.1), also with video.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use reqwest::StatusCode;
use ringback_sip::Phone;
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use ringback_e2e::fixture::{App, Fixture, SOON};
use ringback_e2e::sip_account::SipAccount;

/// A larger request needs a transport with congestion control.
const LARGEST_OVER_UDP: usize = 1_300;
/// The local stack has short addresses.
const LOCAL: &str = "127.0.0.1";
const LONGEST: &str = "255.255.255.255";

#[tokio::test(flavor = "multi_thread")]
async fn a_video_invite_over_udp_fits_into_a_packet() -> Result<()> {
    let fixture = Fixture::open().await?;
    let account = fixture.stack.phone("1001").unwrap();
    let relay = Relay::towards(fixture.pbx).await?;
    let password = &account.sip_password;
    let caller = Phone::new(relay.address, "1001", password).await?;
    let app = fixture.app("1002").await?;
    let called = fixture.stack.phone("1002").unwrap();
    let called_relay = Relay::towards(fixture.pbx).await?;
    let callee = Phone::new(called_relay.address, "1002", &called.sip_password).await?;
    call_with_video(&fixture, &app, (caller, callee)).await?;
    for relay in [relay, called_relay] {
        let invite = relay.invite();
        assert!(!invite.contains("a=crypto"), "{invite}");
        fits(&invite);
    }
    Ok(())
}

/// The account of a device over UDP is offered SRTP as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_video_invite_with_srtp_over_udp_fits_into_a_packet() -> Result<()> {
    let fixture = Fixture::open().await?;
    let caller = fixture.phone("1001").await?;
    let app = fixture.app("1002").await?;
    let account = SipAccount::of(&app).await?;
    let relay = Relay::towards(fixture.pbx).await?;
    let (user, password) = (account.text("username"), account.text("password"));
    let callee = Phone::new(relay.address, user, password).await?;
    call_with_video(&fixture, &app, (caller, callee)).await?;
    let invite = relay.invite();
    assert_eq!(invite.matches("a=crypto").count(), 2, "{invite}");
    fits(&invite);
    Ok(())
}

/// The app of 1001 calls 1002, and the phone of 1002 rings.
async fn call_with_video(
    fixture: &Fixture,
    app: &App<'_>,
    (caller, callee): (Phone, Phone),
) -> Result<()> {
    let (mut caller, mut callee) = (caller.with_video(), callee.with_video());
    caller.register().await?;
    callee.register().await?;
    let mut client = fixture.client("1001").await?;
    let message = json!({ "type": "incoming_call", "callerId": "1001", "recipientId": "1002", "callType": "video" });
    client.send(message).await?;
    let waiting = caller.next_call(SOON).await?;
    waiting.answer().await?;
    let id = app.receives_call().await?;
    let (status, answer) = app.respond("accept_ready", &id).await?;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let ringing = callee.next_call(SOON).await?;
    assert!(ringing.offers_video());
    Ok(())
}

/// Also on a network with longer addresses.
fn fits(invite: &str) {
    // PCMU and PCMA have fixed numbers, and need no name.
    for codec in ["opus", " 0 8 ", "VP8", "H264"] {
        assert!(invite.contains(codec), "{codec} is not offered: {invite}");
    }
    let size = invite.replace(LOCAL, LONGEST).len();
    println!("the INVITE may have {size} bytes");
    assert!(size <= LARGEST_OVER_UDP, "{size} bytes: {invite}");
}

/// Stands between a phone and the PBX, and keeps the last INVITE as it was sent.
struct Relay {
    address: SocketAddr,
    invite: Arc<Mutex<String>>,
    forwarding: JoinHandle<()>,
}

impl Relay {
    async fn towards(pbx: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind((LOCAL, 0)).await?;
        let address = socket.local_addr()?;
        let invite = Arc::<Mutex<String>>::default();
        let seen = invite.clone();
        let forwarding = tokio::spawn(async move {
            let mut phone = None;
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let packet = &buffer[..length];
                let to = if from == pbx {
                    if packet.starts_with(b"INVITE ") {
                        *seen.lock().unwrap() = String::from_utf8_lossy(packet).into_owned();
                    }
                    phone
                } else {
                    phone = Some(from);
                    Some(pbx)
                };
                if let Some(to) = to {
                    let _ = socket.send_to(packet, to).await;
                }
            }
        });
        Ok(Self {
            address,
            invite,
            forwarding,
        })
    }

    fn invite(&self) -> String {
        self.invite.lock().unwrap().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}
