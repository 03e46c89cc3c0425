//! A served store with a client and the clock of both.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{Message, QueueAttributeName};
use axum::body::{Body, to_bytes};
use http::{Request, StatusCode};
use jiff::Timestamp;
use scanhook_emulator::faults::Faults;
use scanhook_emulator::sqs::{self, Endpoint, Page, Store};
use scanhook_worker::clock::{Clock, ManualClock};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) store: Store,
    pub(crate) client: Client,
    pub(crate) base: String,
    pub(crate) dir: TempDir,
    stopping: CancellationToken,
    server: JoinHandle<()>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(Faults::none()).await
    }

    pub(crate) async fn start_with(faults: Faults) -> Self {
        let clock = ManualClock::at("2026-11-21T20:00:00Z".parse::<Timestamp>().unwrap());
        let dir = TempDir::new().unwrap();
        let store =
            Store::open(&dir.path().join("queues.db"), Clock::Manual(clock.clone())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stopping = CancellationToken::new();
        let server = tokio::spawn({
            let (store, stopping) = (store.clone(), stopping.clone());
            async move {
                let endpoint = Endpoint::new(store, faults);
                endpoint.serve(listener, stopping.cancelled_owned()).await;
            }
        });
        let client = client(&base);
        Self {
            clock,
            store,
            client,
            base,
            dir,
            stopping,
            server,
        }
    }

    /// Stops the server, and returns when it has stopped.
    pub(crate) async fn stop(self) -> (Store, TempDir) {
        self.stopping.cancel();
        self.server.await.unwrap();
        (self.store, self.dir)
    }

    pub(crate) async fn queue(&self, name: &str) -> String {
        self.queue_with(name, &[]).await
    }

    pub(crate) async fn queue_with(&self, name: &str, attributes: &[(&str, &str)]) -> String {
        let mut request = self.client.create_queue().queue_name(name);
        for (name, value) in attributes {
            request = request.attributes(QueueAttributeName::from(*name), *value);
        }
        request.send().await.unwrap().queue_url.unwrap()
    }

    /// Creates a queue whose messages move to `<name>-dlq` after `max_receive_count` receives. Returns both URLs.
    pub(crate) async fn queue_with_dlq(
        &self,
        name: &str,
        max_receive_count: u32,
    ) -> (String, String) {
        let dlq = self.queue(&format!("{name}-dlq")).await;
        let policy = redrive_policy(&format!("{name}-dlq"), max_receive_count);
        (
            self.queue_with(name, &[("RedrivePolicy", &policy)]).await,
            dlq,
        )
    }

    pub(crate) async fn send(&self, queue: &str, body: &str) -> String {
        self.client
            .send_message()
            .queue_url(queue)
            .message_body(body)
            .send()
            .await
            .unwrap()
            .message_id
            .unwrap()
    }

    /// Receives up to ten messages without waiting.
    pub(crate) async fn receive(&self, queue: &str) -> Vec<Message> {
        let request = self
            .client
            .receive_message()
            .queue_url(queue)
            .max_number_of_messages(10);
        let request = request
            .message_system_attribute_names("All".into())
            .message_attribute_names("All");
        request.send().await.unwrap().messages.unwrap_or_default()
    }

    /// Receives, and returns the bodies of the messages.
    pub(crate) async fn bodies(&self, queue: &str) -> Vec<String> {
        self.receive(queue)
            .await
            .into_iter()
            .map(|message| message.body.unwrap())
            .collect()
    }

    pub(crate) async fn hide(&self, queue: &str, message: &Message, seconds: i32) {
        let request = self
            .client
            .change_message_visibility()
            .queue_url(queue)
            .visibility_timeout(seconds);
        request
            .receipt_handle(message.receipt_handle().unwrap())
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn delete(&self, queue: &str, message: &Message) {
        let request = self.client.delete_message().queue_url(queue);
        request
            .receipt_handle(message.receipt_handle().unwrap())
            .send()
            .await
            .unwrap();
    }

    /// Returns the page that a `GET` of this path shows.
    pub(crate) async fn get(&self, path: &str) -> Page {
        let router = Endpoint::new(self.store.clone(), Faults::none()).router();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// Visible, in flight, delayed.
    pub(crate) async fn depth(&self, queue: &str) -> [u64; 3] {
        let depth = self.store.depth(queue).await.unwrap();
        [depth.visible, depth.in_flight, depth.delayed]
    }

    pub(crate) fn advance_s(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

pub(crate) fn client(base: &str) -> Client {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(base);
    Client::from_conf(config.build())
}

pub(crate) fn arn(queue: &str) -> String {
    sqs::queue_arn(sqs::REGION, queue)
}

pub(crate) fn redrive_policy(dead_letter_queue: &str, max_receive_count: u32) -> String {
    format!(
        r#"{{"deadLetterTargetArn":"{}","maxReceiveCount":{max_receive_count}}}"#,
        arn(dead_letter_queue)
    )
}
