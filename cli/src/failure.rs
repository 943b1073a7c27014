//! Why a command fails: one sentence for a person, and an exit code for a script.

use std::fmt;
use std::process::ExitCode;

/// The exit codes, as `ringback --help` shows them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: the deployment does not accept the token, the number or the value, or another admin has changed the entry;
     or a test has failed, or doctor, secret set, region add or pbx check has found a fault
  2  wrong use: an argument, a file or the input is not valid; nothing was changed
  3  not reachable: there is no such stack, no login at AWS, or no answer";

/// A command failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    /// Where a command of several steps failed.
    step: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Refused = 1,
    WrongUse = 2,
    NotReachable = 3,
}

/// The result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The deployment refuses.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// The deployment does not accept the token.
    pub(crate) fn wrong_token() -> Self {
        Self::refused(
            "The deployment does not accept the token: it is not valid, or no longer. Make a new one with `ringback token`.",
        )
    }

    /// The command is used wrongly.
    pub(crate) fn wrong_use(message: impl Into<String>) -> Self {
        Self::new(Kind::WrongUse, message)
    }

    /// The deployment, or AWS, is not there or does not answer.
    pub(crate) fn not_reachable(message: impl Into<String>) -> Self {
        Self::new(Kind::NotReachable, message)
    }

    /// The same failure with another sentence after the first one.
    #[must_use]
    pub(crate) fn and(mut self, sentence: &str) -> Self {
        self.message = format!("{} {sentence}", self.message);
        self
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            step: None,
        }
    }

    /// The same failure of this step.
    #[must_use]
    pub(crate) const fn in_step(mut self, step: &'static str) -> Self {
        self.step = Some(step);
        self
    }

    /// The step that failed, of a command that has steps.
    pub(crate) const fn step(&self) -> Option<&'static str> {
        self.step
    }

    /// Whether the same command may succeed later.
    pub(crate) fn may_pass(&self) -> bool {
        self.kind == Kind::NotReachable
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.number())
    }

    /// The exit code as a number.
    pub(crate) const fn number(&self) -> u8 {
        self.kind as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "step \"{step}\": {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}
