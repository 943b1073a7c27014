//! `ringback`: operates a deployment on AWS, or the local stack.

mod api;
mod apply;
mod call;
mod deployment;
mod device;
mod directory;
mod doctor;
mod duration;
mod failure;
mod lambda;
mod output;
mod pbx;
mod prompt;
mod region;
mod route;
mod secret;
mod secret_name;
mod smoke;
mod tail;
mod token;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use secrecy::SecretString;

use api::Api;
use call::CallCommand;
use deployment::{Deployment, Target};
use device::DeviceCommand;
use failure::Result;
use output::Output;
use pbx::PbxCommand;
use region::RegionCommand;
use route::{RouteCommand, TelephoneCommand};
use secret::SecretCommand;
use smoke::SmokeArguments;
use token::{Claims, Role, TokenArguments};

/// Operates a deployment of Ringback: tokens, routes, calls and secrets.
///
/// It finds the deployment by the name of its CloudFormation stack, with your usual login at AWS. With --local, it uses the local stack
/// of the checkout that you are in. Results go to stdout, everything else to stderr.
#[derive(Debug, Parser)]
#[command(name = "ringback", version, after_help = failure::EXIT_CODES, max_term_width = 120)]
struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Print the result as one JSON document, or one per line for `tail`, and errors as JSON on stderr
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token for an app, an operator or an admin
    Token(TokenArguments),
    /// List and change where dialled numbers lead
    Route {
        #[command(flatten)]
        login: Login,
        #[command(subcommand)]
        command: RouteCommand,
    },
    /// List and change the telephones that extensions have
    Telephone {
        #[command(flatten)]
        login: Login,
        #[command(subcommand)]
        command: TelephoneCommand,
    },
    /// Show calls: one, the recent ones, or all as they happen
    Call {
        #[command(flatten)]
        login: Login,
        #[command(subcommand)]
        command: CallCommand,
    },
    /// List the devices of an extension, and test the pushes to one
    Device {
        #[command(flatten)]
        login: Login,
        #[command(subcommand)]
        command: DeviceCommand,
    },
    /// Write the site files of a PBX, and find mistakes in its configuration
    Pbx {
        #[command(subcommand)]
        command: PbxCommand,
    },
    /// Test a deployment with a real call that rings no telephone, and say which step fails
    #[command(after_help = smoke::HELP)]
    Smoke {
        #[command(flatten)]
        login: Login,
        #[command(flatten)]
        arguments: SmokeArguments,
    },
    /// Set and rotate the secrets of the deployment
    Secret {
        #[command(subcommand)]
        command: SecretCommand,
    },
    /// Set up a second region
    Region {
        #[command(subcommand)]
        command: RegionCommand,
    },
    /// Find what is wrong with the deployment, and print what fixes it. Exit code 1: a fault was found
    Doctor,
    /// Print the completions of a shell
    #[command(
        after_help = "Example:\n  ringback completions bash > ~/.local/share/bash-completion/completions/ringback"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(clap::Args, Debug)]
struct Login {
    /// The token to use; by default a new one, valid for 5 minutes. Other users of this machine see arguments: use the variable
    #[arg(long, global = true, env = "RINGBACK_TOKEN", hide_env_values = true)]
    token: Option<SecretString>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.json, arguments.target.arguments().leak());
    match run(arguments, output).await {
        Ok(code) => code,
        Err(failure) => {
            output.fail(&failure);
            failure.exit_code()
        }
    }
}

async fn run(arguments: Arguments, output: Output) -> Result<ExitCode> {
    if let Command::Completions { shell } = arguments.command {
        // clap_complete panics if a write fails.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "ringback", &mut script);
        return output::write(&script).map(|()| ExitCode::SUCCESS);
    }
    // The PBX has no login at AWS.
    if let Command::Pbx {
        command: PbxCommand::Check(arguments),
    } = arguments.command
    {
        return pbx::check(arguments, output)
            .await
            .map(|()| ExitCode::SUCCESS);
    }
    if let Command::Region {
        command: RegionCommand::Add(add),
    } = arguments.command
    {
        return region::add(&arguments.target, add, output).await.map(code);
    }
    let deployment = arguments.target.find().await?;
    let done = match arguments.command {
        Command::Token(arguments) => token::run(&deployment, arguments, output).await,
        Command::Route { login, command } => {
            let country = deployment.parameter("DefaultCountry").unwrap_or("IN");
            let api = login.admin_api(&deployment).await?;
            route::run_route(&api, command, country, output).await
        }
        Command::Telephone { login, command } => {
            let api = login.admin_api(&deployment).await?;
            route::run_telephone(&api, command, output).await
        }
        Command::Call { login, command } => {
            call::run(&deployment, login.token.as_ref(), command, output).await
        }
        Command::Device { login, command } => {
            device::run(&deployment, login.token.as_ref(), command, output).await
        }
        Command::Smoke { login, arguments } => {
            smoke::run(&deployment, login.token.as_ref(), arguments, output).await
        }
        Command::Secret { command } => {
            return secret::run(&deployment, command, output).await.map(code);
        }
        Command::Pbx {
            command: PbxCommand::Init(arguments),
        } => pbx::init(&deployment, arguments, output).await,
        Command::Doctor => {
            return doctor::run(&deployment, output).await.map(code);
        }
        Command::Completions { .. } | Command::Pbx { .. } | Command::Region { .. } => Ok(()),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// The exit code of a command that looks for faults.
fn code(is_healthy: bool) -> ExitCode {
    ExitCode::from(u8::from(!is_healthy))
}

impl Login {
    async fn admin_api(&self, deployment: &Deployment) -> Result<Api> {
        let claims = Claims::of_role(Role::Admin);
        let token = token::for_command(deployment, self.token.as_ref(), claims).await?;
        Api::new(deployment, token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_token_needs_a_holder_and_a_secret_is_no_argument() {
        let secret = ["ringback", "secret", "set", "app", "jwt_secret", "value"];
        assert!(Arguments::try_parse_from(secret).is_err());
        assert!(Arguments::try_parse_from(["ringback", "token"]).is_err());
        let operator = ["ringback", "token", "--role", "operator", "--for", "1h"];
        assert!(Arguments::try_parse_from(operator).is_ok());
    }
}
