//! Listener and connections, and the faults that concern them.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::{Bind, Fault, Shared, http};

/// Pause before the listener is opened again.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// Serves until `stop` is dropped.
pub(crate) async fn serve(shared: Arc<Shared>, bind: Bind, mut stop: watch::Receiver<()>) {
    let mut fault = shared.fault.subscribe();
    let stopped = async move { while stop.changed().await.is_ok() {} };
    let run = async {
        loop {
            let up = |fault: &Fault| *fault != Fault::Down;
            if fault.wait_for(up).await.is_err() {
                return;
            }
            let mut connections = JoinSet::new();
            let accepting = accept(&shared, &bind, &mut connections);
            let down = shared.fault.subscribe();
            tokio::select! {
                () = accepting => {}
                () = wait(down, |fault| *fault == Fault::Down) => {}
            }
            // Dropping the listener closes the port, dropping the set closes the connections.
        }
    };
    tokio::select! { () = run => {}, () = stopped => {} }
}

async fn wait<T>(mut receiver: watch::Receiver<T>, condition: impl FnMut(&T) -> bool) {
    if receiver.wait_for(condition).await.is_err() {
        pending::<()>().await;
    }
}

async fn accept(shared: &Arc<Shared>, bind: &Bind, connections: &mut JoinSet<()>) {
    let listener = loop {
        let opened = bind().and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        match opened {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(BIND_PAUSE).await,
        }
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(handle(Arc::clone(shared), stream))),
                Err(_) => tokio::time::sleep(BIND_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves a connection until it is silenced; a silent one stays open.
async fn handle(shared: Arc<Shared>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut silenced = shared.silenced.subscribe();
    let fault = shared.fault.subscribe();
    let (mute, muted) = watch::channel(false);
    let served = async {
        let stream = MutedStream { stream, muted };
        let _ = protocol(&shared, stream).await;
    };
    let silence = async {
        tokio::select! {
            _ = silenced.changed() => {}
            () = wait(fault, |fault| *fault == Fault::Silent) => {}
        }
        mute.send_replace(true);
        pending::<()>().await;
    };
    tokio::select! { () = served => {}, () = silence => {} }
}

async fn protocol(
    shared: &Arc<Shared>,
    stream: MutedStream,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let authority = shared.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let service = service_fn(|request| {
        let shared = Arc::clone(shared);
        async move { Ok::<_, std::convert::Infallible>(http::respond(&shared, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    match authority {
        Some(authority) => {
            let stream = TlsAcceptor::from(authority.config).accept(stream).await?;
            builder.serve_connection(TokioIo::new(stream), service).await
        }
        None => builder.serve_connection(TokioIo::new(stream), service).await,
    }
}

/// A stream that is never ready again once it is muted.
struct MutedStream {
    stream: TcpStream,
    muted: watch::Receiver<bool>,
}

impl AsyncRead for MutedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if *self.muted.borrow() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for MutedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if *self.muted.borrow() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if *self.muted.borrow() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
