//! The local cloud: a local AWS with the real functions, deployed from the real template.

pub mod build;
pub mod deploy;
pub mod emulator;
pub mod region;
pub mod replica;
pub mod seed;
pub mod template;

use tokio::process::Command;

use region::Region;

/// Where a local AWS has its deployed APIs, by their ids. It knows them by host name too, but not every machine finds
/// names below `localhost`.
pub fn apis(endpoint: &str) -> String {
    format!("{endpoint}/_aws/execute-api")
}

/// Points a command at a region's local AWS, and not at the user's own AWS account.
pub fn point_at_local_aws(command: &mut Command, region: Region) -> &mut Command {
    for variable in [
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_ROLE_ARN",
    ] {
        command.env_remove(variable);
    }
    command
        .env("AWS_ENDPOINT_URL", region.endpoint())
        .env("AWS_ACCESS_KEY_ID", "local")
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .env("AWS_REGION", region.name)
        .env("AWS_DEFAULT_REGION", region.name)
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("SAM_CLI_TELEMETRY", "0")
}
