//! Asks for a secret in a terminal, without showing what is typed.

use std::io::{BufRead, Write};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::failure::{Failure, Result};

/// Asks, and returns what was typed, without the line break.
pub(crate) fn ask(question: &str) -> Result<String> {
    let no_terminal =
        |error| Failure::wrong_use(format!("The terminal cannot hide what you type: {error}."));
    let mut stderr = std::io::stderr();
    let asked = stderr.write_all(question.as_bytes());
    let shown = tcgetattr(std::io::stdin()).map_err(no_terminal)?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    hidden.local_flags.insert(LocalFlags::ECHONL);
    tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &hidden).map_err(no_terminal)?;
    // Shows typing again in every case.
    let _shown_again = ShownAgain(shown);
    let mut line = String::new();
    let read = asked.and_then(|()| std::io::stdin().lock().read_line(&mut line));
    match read {
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(Failure::wrong_use(format!(
            "stdin cannot be read: {error}."
        ))),
    }
}

struct ShownAgain(Termios);

impl Drop for ShownAgain {
    fn drop(&mut self) {
        // Nothing can be done if this fails.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
