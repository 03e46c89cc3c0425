//! What happens to a request before its route: how much is taken of strangers, whom the local surfaces answer, and how refusals
//! are answered.

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

/// Connections to what everybody may reach.
const CONNECTIONS: usize = 512;

/// Connections to what only probes and Prometheus use.
const HEALTH_CONNECTIONS: usize = 64;

/// Answers a request that is refused, and counts it.
pub(crate) type Refuse = Arc<dyn Fn(&Uri, Rejection) -> Response + Send + Sync>;

/// What all listeners of a process have in common.
#[derive(Clone)]
pub(crate) struct Front {
    /// Whom the local surfaces answer beside this machine.
    pub(crate) hosts: AllowedHosts,
    pub(crate) refuse: Refuse,
}

impl Front {
    /// For a process that counts no refusals.
    pub(crate) fn uncounted(hosts: AllowedHosts) -> Self {
        Self {
            hosts,
            refuse: Arc::new(|_, rejection| rejection.into_response()),
        }
    }

    /// Keeps routes for this machine and the allowed hosts.
    pub(crate) fn guard(&self, router: Router) -> Router {
        let refuse = Arc::clone(&self.refuse);
        let router = router.method_not_allowed_fallback(async move |uri: Uri| {
            refuse(&uri, Rejection::MethodNotAllowed)
        });
        self.hosts.guard(router, &self.refusals())
    }

    /// Serves what everybody may reach.
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
