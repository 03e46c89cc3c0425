//! Where secrets are on this machine.

use std::path::PathBuf;

use scanhook_config::Environment;
use scanhook_config::config::Config;

/// Variables that name files with credentials of the process. Source: AWS's SDK reference, "Environment variables support";
/// Google's "How Application Default Credentials works".
const CREDENTIAL_FILES: [&str; 5] = [
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
];

/// Where credentials of the process and of whoever started it usually are: below `HOME`, and where containers get theirs.
const BELOW_HOME: [&str; 6] = [
    ".aws",
    ".azure",
    ".config/gcloud",
    ".docker",
    ".kube",
    ".ssh",
];
const IN_CONTAINERS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];

/// The files and directories that the CLI must not read: those that hold secrets.
pub fn secret_places(config: &Config, environment: &Environment) -> Vec<PathBuf> {
    let named = CREDENTIAL_FILES.iter().filter_map(|it| environment(it));
    let home = environment("HOME").map(PathBuf::from);
    let home = home
        .iter()
        .flat_map(|home| BELOW_HOME.map(|it| home.join(it)));
    let named = named.map(PathBuf::from).chain(home);
    let fixed = IN_CONTAINERS.iter().map(PathBuf::from);
    let places = config.secret_files().chain(named).chain(fixed);
    places.filter(|it| !it.as_os_str().is_empty()).collect()
}
