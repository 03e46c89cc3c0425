//! The HTTP client of the commands.

use anyhow::Context as _;

/// A client for [`post`].
pub(crate) fn outward() -> anyhow::Result<reqwest::Client> {
    build(reqwest::Client::builder())
}

/// The same for a server of this process, to which no proxy of the environment leads.
pub(crate) fn local() -> anyhow::Result<reqwest::Client> {
    build(reqwest::Client::builder().no_proxy())
}

fn build(builder: reqwest::ClientBuilder) -> anyhow::Result<reqwest::Client> {
    // A second command of the same process finds it installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    builder
        .timeout(std::time::Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("could not make an HTTP client")
}
