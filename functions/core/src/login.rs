//! How to log in to a registry.

use secrecy::SecretString;

/// A user name and password for a registry.
#[derive(Clone)]
pub struct RegistryLogin {
    pub username: String,
    pub password: SecretString,
}
