//! `ringback route` and `ringback telephone`.

use clap::Subcommand;
use ringback::store::directories::Directory;

use crate::api::Api;
use crate::apply;
use crate::device;
use crate::directory::{list, remove, set};
use crate::failure::Result;
use crate::output::Output;

#[derive(Subcommand, Debug)]
pub(crate) enum RouteCommand {
    /// List the dialled numbers and the extension that each one rings
    List,
    /// Lead a dialled number to an extension, from the next call on
    #[command(after_help = "Example:\n  ringback route set +918047491899 1001")]
    Set {
        /// The dialled number, such as +918047491899
        #[arg(allow_hyphen_values = true)]
        number: String,
        /// The extension that rings, such as 1001
        extension: String,
    },
    /// Remove the route of a dialled number
    #[command(after_help = "Example:\n  ringback route remove +918047491899")]
    Remove {
        /// The dialled number
        number: String,
    },
    /// Make the routes and telephones as they are in a YAML file
    #[command(after_help = apply::HELP)]
    Apply(apply::ApplyArguments),
}

#[derive(Subcommand, Debug)]
pub(crate) enum TelephoneCommand {
    /// List the extensions with the telephone of each one
    List,
    /// Set the telephone that Exotel calls first when the app of an extension calls a number
    #[command(after_help = "Example:\n  ringback telephone set 1001 +919800001001")]
    Set {
        /// The extension, such as 1001
        extension: String,
        /// The telephone of its owner, such as +919800001001
        number: String,
    },
    /// Remove the telephone of an extension
    #[command(after_help = "Example:\n  ringback telephone remove 1001")]
    Remove {
        /// The extension
        extension: String,
    },
}

/// Runs `ringback route`.
pub(crate) async fn run_route(
    api: &Api,
    command: RouteCommand,
    country: &str,
    output: Output,
) -> Result<()> {
    let numbers = Directory::Numbers;
    match command {
        RouteCommand::List => list(api, numbers, ["NUMBER", "EXTENSION"], output).await,
        RouteCommand::Set { number, extension } => {
            set(api, numbers, &number, &extension, output).await?;
            note_missing_device(api, &extension, output).await;
            Ok(())
        }
        RouteCommand::Remove { number } => remove(api, numbers, &number, output).await,
        RouteCommand::Apply(arguments) => apply::run(api, &arguments, country, output).await,
    }
}

/// The route is written already, so a failure of this look is none of the command.
async fn note_missing_device(api: &Api, extension: &str, output: Output) {
    if let Ok(devices) = device::devices(api, extension).await
        && devices.is_empty()
    {
        output.note(&format!(
            "{extension} has no device: nothing rings until an app registers."
        ));
    }
}

/// Runs `ringback telephone`.
pub(crate) async fn run_telephone(
    api: &Api,
    command: TelephoneCommand,
    output: Output,
) -> Result<()> {
    let extensions = Directory::Extensions;
    match command {
        TelephoneCommand::List => list(api, extensions, ["EXTENSION", "TELEPHONE"], output).await,
        TelephoneCommand::Set { extension, number } => {
            set(api, extensions, &extension, &number, output).await
        }
        TelephoneCommand::Remove { extension } => remove(api, extensions, &extension, output).await,
    }
}
