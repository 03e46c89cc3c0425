//! The least that a function of this kind can be: `lambda_http` and `axum`, one route, nothing else.

use axum::Router;
use axum::routing::get;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::run(Router::new().route("/", get(|| async { "hello" }))).await
}
