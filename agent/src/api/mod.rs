//! The socket by which the command line queries the running agent.

mod client;
mod request;
mod response;
mod server;

pub use client::call;
pub use request::{Call, Request};
pub use response::{ServiceRow, Status};
pub use server::serve;

/// Default path of the socket.
pub const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_question_gets_its_answer_and_nonsense_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/s.sock");
        let (events, mut questions) = mpsc::channel(1);
        serve(&path, events, |q: Call| q).unwrap();
        tokio::spawn(async move {
            while let Some(q) = questions.recv().await {
                let _ = q.answer.send(format!("\"{:?}\"", q.request));
            }
        });
        let asked = path.clone();
        let answer =
            tokio::task::spawn_blocking(move || call(&asked, &Request::Services)).await.unwrap();
        assert_eq!(answer.unwrap().trim(), "\"Services\"");
        let mut raw = UnixStream::connect(&path).await.unwrap();
        raw.write_all(b"hello\n").await.unwrap();
        let mut text = String::new();
        raw.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("{\"error\":"), "{text}");
    }
}
