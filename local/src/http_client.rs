//! The HTTP client of the commands.

use anyhow::Context as _;

/// A client for other servers.
pub(crate) fn outward() -> anyhow::Result<reqwest::Client> {
    build(reqwest::Client::builder())
}

/// A client for a server of this process, which ignores the environment's proxy.
pub(crate) fn local() -> anyhow::Result<reqwest::Client> {
    build(reqwest::Client::builder().no_proxy())
}

fn build(builder: reqwest::ClientBuilder) -> anyhow::Result<reqwest::Client> {
    // Fails if a provider is installed already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    builder
        .timeout(std::time::Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("could not create an HTTP client")
}
