//! Places a call each time Enter is pressed in the terminal that runs the stack.

use std::io::{BufRead, IsTerminal};

use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::sample_call;
use crate::settings::Settings;

const PROMPT: &str = "Press Enter to place a call. Ctrl-C stops the stack.";

/// Places a call for each line of input. Never returns.
pub(super) async fn place_calls(settings: &Settings) {
    let Some(mut lines) = read_terminal() else {
        return std::future::pending().await;
    };
    println!("{PROMPT}");
    while lines.recv().await.is_some() {
        if let Err(error) = sample_call::place(settings).await {
            eprintln!("the call failed: {error:#}");
        }
        // Ignore Enter presses during the call.
        while lines.try_recv().is_ok() {}
        println!("\n{PROMPT}");
    }
    // The terminal is closed. The stack continues.
    std::future::pending().await
}

/// Reads lines from the terminal. `None` without a terminal or in a background job, which the system would suspend on
/// reading.
fn read_terminal() -> Option<UnboundedReceiver<()>> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || tcgetpgrp(&stdin).ok() != Some(getpgrp()) {
        return None;
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    // A plain thread, because the tokio runtime would wait for a blocked read when the process ends.
    std::thread::spawn(move || {
        for line in stdin.lock().lines() {
            if line.is_err() || sender.send(()).is_err() {
                return;
            }
        }
    });
    Some(receiver)
}
