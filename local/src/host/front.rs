//! What happens to a request before its route: limits for strangers, the guard of local surfaces, and the answers to refused
//! requests.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::Uri;
use scanhook_webhook::rejection::Rejection;
use scanhook_worker::listener::{self, AllowedHosts, Capacity, Refusal};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::operations::Operations;

/// The most connections to a listener that everybody may reach.
const CONNECTIONS: usize = 512;

/// The most connections to a listener for probes and Prometheus.
const HEALTH_CONNECTIONS: usize = 64;

/// Answers and counts a refused request.
pub(crate) type Refuse = Arc<dyn Fn(&Uri, Rejection) -> Response + Send + Sync>;

/// What all listeners of a process share.
#[derive(Clone)]
pub(crate) struct Front {
    /// The host names that the local surfaces answer besides `localhost`.
    pub(crate) hosts: AllowedHosts,
    pub(crate) refuse: Refuse,
}

impl Front {
    /// For a process that doesn't count refusals.
    pub(crate) fn uncounted(hosts: AllowedHosts) -> Self {
        Self {
            hosts,
            refuse: Arc::new(|_, rejection| rejection.into_response()),
        }
    }

    /// Restricts routes to this machine and the allowed hosts.
    pub(crate) fn guard(&self, router: Router) -> Router {
        let refuse = Arc::clone(&self.refuse);
        let router = router.method_not_allowed_fallback(async move |uri: Uri| {
            refuse(&uri, Rejection::MethodNotAllowed)
        });
        self.hosts.guard(router, &self.refusals())
    }

    /// Serves routes that everybody may reach.
    pub(crate) fn serve(
        &self,
        listener: TcpListener,
        router: Router,
        stopping: &CancellationToken,
        drain: Duration,
    ) -> impl Future<Output = ()> + use<> {
        let capacity = Capacity {
            connections: CONNECTIONS,
            bodies: 16 << 20,
            refuse: self.refusals(),
        };
        listener::serve(listener, router, capacity, stopping.clone(), drain)
    }

    /// Serves probes and Prometheus, which send no bodies: `/healthz` for everybody, `/readyz` and `/metrics` guarded.
    pub(crate) fn serve_health(
        &self,
        listener: TcpListener,
        operations: &Arc<Operations>,
        stopping: &CancellationToken,
        drain: Duration,
    ) -> impl Future<Output = ()> + use<> {
        let refuse = Arc::clone(&self.refuse);
        let router = Router::new()
            .route("/healthz", get(async || "ok"))
            .merge(self.guard(operations.routes()))
            .fallback(async move |uri: Uri| refuse(&uri, Rejection::NotFound));
        let capacity = Capacity {
            connections: HEALTH_CONNECTIONS,
            bodies: 0,
            refuse: self.refusals(),
        };
        listener::serve(listener, router, capacity, stopping.clone(), drain)
    }

    fn refusals(&self) -> listener::Refuse {
        let refuse = Arc::clone(&self.refuse);
        Arc::new(move |uri, refusal| {
            let rejection = match refusal {
                Refusal::Full => Rejection::Unavailable,
                Refusal::Late => Rejection::Timeout,
                Refusal::BadHost => Rejection::BadHost,
                Refusal::OtherHost | Refusal::OtherSite => Rejection::Forbidden,
            };
            refuse(uri, rejection)
        })
    }
}
