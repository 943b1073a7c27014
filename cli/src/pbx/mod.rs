//! `ringback pbx`: writes the site files of a PBX, and finds mistakes in a PBX's configuration.

mod check;
mod init;

use clap::Subcommand;

pub(crate) use check::CheckArguments;
pub(crate) use check::run as check;
pub(crate) use init::InitArguments;
pub(crate) use init::run as init;

#[derive(Subcommand, Debug)]
pub(crate) enum PbxCommand {
    /// Write the site files of a PBX, with the values of the deployment and new passwords
    #[command(after_help = init::HELP)]
    Init(InitArguments),
    /// Find mistakes in the configuration of the PBX on this machine. Needs no login at AWS
    #[command(after_help = check::HELP)]
    Check(CheckArguments),
}
