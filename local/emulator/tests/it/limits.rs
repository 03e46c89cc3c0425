//! What the endpoint takes of strangers.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::World;

/// What the bodies of all requests may take together, and how much of each is not counted.
const SHARED: usize = 64 << 20;
const FREE: usize = 32 * 1024;

const LARGEST: usize = 8 << 20;

async fn connect(world: &World) -> TcpStream {
    TcpStream::connect(world.base.strip_prefix("http://").unwrap())
        .await
        .unwrap()
}

/// Sends the head of a request whose body is `length` bytes, and `sent` of them.
async fn begin(world: &World, length: usize, sent: usize) -> TcpStream {
    let mut stream = connect(world).await;
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; sent]).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let world = World::start().await;
    let mut stream = connect(&world).await;
    let head = format!("POST / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "a".repeat(20_000));
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = answer(stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    world.queue("q").await;
}

#[tokio::test]
async fn bodies_that_find_no_room_are_refused_as_by_a_busy_sqs_and_the_others_go_on() {
    let world = World::start().await;
    let mut unfinished = Vec::new();
    for _ in 0..SHARED / LARGEST {
        unfinished.push(begin(&world, LARGEST, LARGEST - 1).await);
    }
    let room = SHARED - unfinished.len() * (LARGEST - 1 - FREE);
    // All of those bodies were read when one byte more than the room is refused.
    let length = room + FREE + 1;
    let mut refused = String::new();
    for _ in 0..1000 {
        refused = answer(begin(&world, length, length).await).await;
        if refused.starts_with("HTTP/1.1 503 ") {
            break;
        }
    }
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(
        refused.contains("x-amzn-query-error: ServiceUnavailable;Receiver"),
        "{refused}"
    );
    // Little ones are served all the while.
    world.queue("q").await;
    drop(unfinished);
    world.send("q", &"a".repeat(1_000_000)).await;
}
