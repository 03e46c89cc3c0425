//! The SDK's connections. AWS's hosts are trusted by Amazon's own five roots: reading all of a system's costs nine times what
//! the rest of a first call does. Other hosts, and AWS's behind a proxy with its own CA, are trusted as the system or
//! `AWS_CA_BUNDLE` says.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use http::Uri;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::Environment;

/// Amazon Root CA 1 to 4 and Starfield Services Root CA G2. Source: AWS's "Amazon Trust Services", which asks clients to
/// trust these five; each is the certificate of that name in Mozilla's list.
const AMAZON_ROOTS: &[u8] = include_bytes!("amazon-roots.pem");

/// Where the names of AWS's hosts end.
const AMAZON_HOSTS: [&str; 2] = [".amazonaws.com", ".api.aws"];

/// An older idle connection isn't used again. A function is frozen between invocations and doesn't notice its end.
const IDLE: Duration = Duration::from_mins(1);

/// The HTTP client of all clients of the SDK, keeping at most so many idle connections to each host.
pub(super) fn http_client(environment: &Environment, max_idle: usize) -> SharedHttpClient {
    let builder = || {
        Builder::new()
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(max_idle)
    };
    let trusting = |store: TrustStore| {
        let Ok(context) = TlsContext::builder().with_trust_store(store).build() else {
            unreachable!("nothing is checked until a connection is made")
        };
        let builder = builder().tls_provider(Provider::Rustls(CryptoMode::Ring));
        builder.tls_context(context).build_https()
    };
    let only = |pem: &[u8]| trusting(TrustStore::empty().with_pem_certificate(pem));
    let other = match bundle(environment) {
        Some(bundle) => only(&bundle),
        None => trusting(TrustStore::default()),
    };
    SharedHttpClient::new(Connections(Arc::new(Clients {
        plain: builder().build_http(),
        amazon: only(AMAZON_ROOTS),
        other,
        is_behind_proxy: AtomicBool::new(false),
    })))
}

/// The certificates that `AWS_CA_BUNDLE` names, as AWS's command line reads it.
fn bundle(environment: &Environment) -> Option<Vec<u8>> {
    let path = environment("AWS_CA_BUNDLE").filter(|it| !it.is_empty())?;
    let pem = std::fs::read(&path).ok();
    let bundle = pem.filter(|it| is_of_certificates(it));
    if bundle.is_none() {
        tracing::warn!(
            event = "ca_bundle.unusable",
            "AWS_CA_BUNDLE names no file of certificates, so those of the system are trusted"
        );
    }
    bundle
}

/// Whether all in it are certificates: the SDK panics at any other.
fn is_of_certificates(pem: &[u8]) -> bool {
    let mut roots = RootCertStore::empty();
    let mut certificates = CertificateDer::pem_slice_iter(pem);
    certificates.all(|it| it.is_ok_and(|it| roots.add(it).is_ok())) && !roots.is_empty()
}

#[derive(Clone, Debug)]
struct Connections(Arc<Clients>);

/// Each makes its connections, and reads its certificates, when first used.
#[derive(Debug)]
struct Clients {
    plain: SharedHttpClient,
    amazon: SharedHttpClient,
    other: SharedHttpClient,
    /// A host of AWS has shown a certificate that Amazon has not issued.
    is_behind_proxy: AtomicBool,
}

impl HttpClient for Connections {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            clients: Arc::clone(&self.0),
            settings: settings.clone(),
            components: components.clone(),
        })
    }
}

#[derive(Clone, Debug)]
struct Connector {
    clients: Arc<Clients>,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Ok(uri) = request.uri().parse::<Uri>() else {
            let problem = "the endpoint is not a URL";
            return HttpConnectorFuture::ready(Err(ConnectorError::user(problem.into())));
        };
        if uri.scheme_str() == Some("http") {
            return self.send(&self.clients.plain, request);
        }
        let is_proxied = self.clients.is_behind_proxy.load(Ordering::Relaxed);
        let again = request
            .try_clone()
            .filter(|_| is_of_amazon(&uri) && !is_proxied);
        let Some(again) = again else {
            return self.send(&self.clients.other, request);
        };
        let connector = self.clone();
        HttpConnectorFuture::new(async move {
            let clients = &connector.clients;
            match connector.send(&clients.amazon, request).await {
                Err(err) if is_unknown_issuer(&err) => {
                    clients.is_behind_proxy.store(true, Ordering::Relaxed);
                    connector.send(&clients.other, again).await
                }
                result => result,
            }
        })
    }
}

impl Connector {
    fn send(&self, client: &SharedHttpClient, request: HttpRequest) -> HttpConnectorFuture {
        let connector = client.http_connector(&self.settings, &self.components);
        connector.call(request)
    }
}

fn is_of_amazon(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    AMAZON_HOSTS.iter().any(|it| host.ends_with(it))
}

/// Whether the other side's certificate was issued by none of the roots, so that nothing was sent.
fn is_unknown_issuer(err: &(dyn Error + 'static)) -> bool {
    use rustls::{CertificateError, Error::InvalidCertificate};
    let mut cause = Some(err);
    while let Some(err) = cause {
        let wrapped = err.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let err = wrapped.map_or(err, |it| it as &(dyn Error + 'static));
        if let Some(err) = err.downcast_ref() {
            return matches!(err, InvalidCertificate(CertificateError::UnknownIssuer));
        }
        cause = err.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

    use super::*;

    #[test]
    fn amazons_roots_are_those_of_mozillas_list() {
        let roots = CertificateDer::pem_slice_iter(AMAZON_ROOTS).map(Result::unwrap);
        let roots: Vec<_> = roots.collect();
        assert_eq!(roots.len(), 5);
        for root in roots {
            assert!(TLS_SERVER_ROOT_CERTS.contains(&root));
            let text = String::from_utf8_lossy(&root).into_owned();
            assert!(
                text.contains("Amazon Root CA ") || text.contains("Starfield Services Root"),
                "{text}"
            );
        }
    }

    #[test]
    fn only_names_of_aws_are_amazons() {
        for (host, expected) in [
            ("sqs.eu-central-1.amazonaws.com", true),
            ("sqs.us-east-1.api.aws", true),
            ("sqs.cn-north-1.amazonaws.com.cn", false),
            ("amazonaws.com.example.com", false),
            ("notamazonaws.com", false),
            ("127.0.0.1:4566", false),
        ] {
            let uri = format!("https://{host}/").parse().unwrap();
            assert_eq!(is_of_amazon(&uri), expected, "{host}");
        }
    }

    #[test]
    fn a_bundle_is_used_only_if_it_holds_certificates_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let broken = "-----BEGIN CERTIFICATE-----\nZmFrZQ==\n-----END CERTIFICATE-----\n";
        for (name, text, is_used) in [
            ("good.pem", AMAZON_ROOTS.to_vec(), true),
            ("empty.pem", Vec::new(), false),
            (
                "broken.pem",
                [AMAZON_ROOTS, broken.as_bytes()].concat(),
                false,
            ),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            let path = path.to_str().unwrap().to_owned();
            let environment: Environment = Arc::new(move |_| Some(path.clone()));
            assert_eq!(bundle(&environment).is_some(), is_used, "{name}");
        }
        let nowhere: Environment = Arc::new(|_| Some("/nowhere".to_owned()));
        assert!(bundle(&nowhere).is_none());
    }

    #[test]
    fn a_certificate_of_an_unknown_issuer_is_told_from_other_failures() {
        use rustls::CertificateError::{Expired, UnknownIssuer};
        for (problem, expected) in [(UnknownIssuer, true), (Expired, false)] {
            let err = rustls::Error::InvalidCertificate(problem);
            let err = io::Error::new(io::ErrorKind::InvalidData, err);
            assert_eq!(is_unknown_issuer(&ConnectorError::io(err.into())), expected);
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(!is_unknown_issuer(&ConnectorError::io(refused.into())));
    }
}
