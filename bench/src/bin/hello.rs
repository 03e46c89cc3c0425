//! The smallest comparable function: `lambda_http` and `axum` with one route.

use axum::Router;
use axum::routing::get;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::run(Router::new().route("/", get(|| async { "hello" }))).await
}
