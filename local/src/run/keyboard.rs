//! Places a call on each press of Enter, in the terminal that runs the stack.

use std::io::{BufRead, IsTerminal};

use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::call;
use crate::settings::Settings;

const PROMPT: &str = "Press Enter to place a call here and now; Ctrl-C stops the stack.";

/// Places a call for each line of input, and prints its steps. Never returns.
pub(super) async fn place_calls(settings: &Settings) {
    let Some(mut lines) = listen() else {
        return std::future::pending().await;
    };
    println!("{PROMPT}");
    while lines.recv().await.is_some() {
        if let Err(error) = call::place(settings).await {
            eprintln!("the call failed: {error:#}");
        }
        // What was typed during the call does not ask for another one.
        while lines.try_recv().is_ok() {}
        println!("\n{PROMPT}");
    }
    // The terminal is gone; the stack stays.
    std::future::pending().await
}

/// The lines typed at the terminal, if there is one and it is ours: a job in the background would be stopped for reading.
fn listen() -> Option<UnboundedReceiver<()>> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || tcgetpgrp(&stdin).ok() != Some(getpgrp()) {
        return None;
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    // A plain thread, because a thread of the runtime would delay the end of the process until the next line.
    std::thread::spawn(move || {
        for line in stdin.lock().lines() {
            if line.is_err() || sender.send(()).is_err() {
                return;
            }
        }
    });
    Some(receiver)
}
