//! `ringback pbx`: writes the site files of a PBX, and finds mistakes in a PBX's configuration.

mod check;
mod init;

use clap::Subcommand;
use ringback::asterisk::PbxList;

use crate::deployment::Deployment;
use crate::failure::{Failure, Result};

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

/// The names of the PBXs in the deployment's parameter `AriUrl`.
fn names(deployment: &Deployment) -> Result<Vec<String>> {
    let list = deployment.parameter("AriUrl").unwrap_or_default();
    let pbxs = PbxList::parse(list).map_err(|error| Failure::refused(format!("{error}.")))?;
    let names = pbxs.into_iter().map(|(name, _)| name.to_string());
    Ok(names.collect())
}

/// Refuses a name that `AriUrl` does not list.
pub(crate) fn check_name(deployment: &Deployment, name: &str) -> Result<()> {
    let names = names(deployment)?;
    match names.iter().any(|listed| listed == name) {
        true => Ok(()),
        false => Err(Failure::wrong_use(format!(
            "AriUrl lists no PBX {name}, only {}.",
            names.join(", ")
        ))),
    }
}
