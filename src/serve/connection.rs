//! Connections of a listener: how many, how long each step may take, TLS, and their end.

use super::places::{Place, Places, turned_away};
use super::rotation::Current;
use super::tls::Peer;
use crate::limits::{
    CONNECTION_IDLE_MAX_S, CONNECTION_OPENING_MAX_S, CONNECTION_STALL_MAX_S, CONNECTIONS_MAX,
    DRAINED_MAX_BYTES, DRAINED_MAX_S, HEADER_READ_MAX_S, HEADERS_MAX, HEADERS_MAX_BYTES, SHUTDOWN_GRACE_S,
    STREAMS_PER_CONNECTION_MAX, TURNED_AWAY_MAX_S,
};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Tells an answer without an end that the server is about to close. Every request carries it as an
/// extension.
#[derive(Clone)]
pub struct Closing(watch::Receiver<()>);

impl Closing {
    /// Completes when the sender is dropped.
    pub fn new(open_until_dropped: watch::Receiver<()>) -> Self {
        Closing(open_until_dropped)
    }

    /// Completes when the server begins to close.
    pub async fn closed(mut self) {
        // Nothing is ever sent: the sender is dropped.
        while self.0.changed().await.is_ok() {}
    }
}

/// Serves `router` in plain text until `shutdown` completes, then lets open requests finish for a grace
/// period.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    serve_on(listener, None, connections, router, shutdown).await;
}

/// The same with TLS, where there are settings for it, and with at most so many connections; further ones are
/// answered 503. Every request carries its [`Peer`] as an extension.
pub async fn serve_on(
    listener: TcpListener,
    tls: Option<Current<ServerConfig>>,
    connections: Arc<Semaphore>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let (open_until_dropped, closing) = watch::channel(());
    let server = Arc::new(Server { router, turned_away: turned_away(), closing, builder: builder(), tls });
    let (places, open) = (Places::new(connections), GracefulShutdown::new());
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let place = tokio::select! {
            () = &mut shutdown => break,
            place = places.next() => place,
        };
        // Answers are small and latency is the point.
        let _ = stream.set_nodelay(true);
        let (server, watcher) = (server.clone(), open.watcher());
        tokio::spawn(async move { server.connection(stream, watcher, place).await });
    }
    drop(listener);
    drop(open_until_dropped);
    if tokio::time::timeout(Duration::from_secs(SHUTDOWN_GRACE_S), open.shutdown()).await.is_err() {
        tracing::warn!("requests still open after {SHUTDOWN_GRACE_S} s are cut off");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEADER_READ_MAX_S))
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADERS_MAX_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(HEADER_READ_MAX_S))
        .max_header_list_size(HEADERS_MAX_BYTES as u32)
        // KEDA sends everything to one address over one connection, and a push trigger keeps a stream open.
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX);
    builder
}

struct Server {
    router: Router,
    turned_away: Router,
    closing: watch::Receiver<()>,
    builder: auto::Builder<TokioExecutor>,
    tls: Option<Current<ServerConfig>>,
}

impl Server {
    /// Serves a connection that has a place, or answers that there is none.
    async fn connection(&self, stream: TcpStream, watcher: Watcher, place: Place) {
        if place.is_served {
            return self.open(stream, watcher, &self.router).await;
        }
        let limit = Duration::from_secs(TURNED_AWAY_MAX_S);
        // One that has not read its answer by then loses it.
        let _ = tokio::time::timeout(limit, self.open(stream, watcher, &self.turned_away)).await;
    }

    async fn open(&self, stream: TcpStream, watcher: Watcher, router: &Router) {
        // The settings of this moment: a rotated certificate counts from the next connection on.
        let Some(tls) = self.tls.as_ref().map(|current| current.load_full()) else {
            return self.drive(stream, Peer::default(), watcher, router).await;
        };
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let limit = Duration::from_secs(CONNECTION_OPENING_MAX_S);
        match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates();
                let chain = chain.map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect());
                self.drive(stream, Peer { chain }, watcher, router).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake not done in time"),
        }
    }

    async fn drive(
        &self,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        watcher: Watcher,
        router: &Router,
    ) {
        let closing = Closing(self.closing.clone());
        let has_begun = Arc::new(AtomicBool::new(false));
        let begun = has_begun.clone();
        let service = router.clone().map_request(move |mut request: Request<Incoming>| {
            begun.store(true, Ordering::Relaxed);
            single_slashes(&mut request);
            request.extensions_mut().insert(closing.clone());
            request.extensions_mut().insert(peer.clone());
            request
        });
        let io = TokioIo::new(Paced::new(io, has_begun));
        let connection = self.builder.serve_connection_with_upgrades(io, TowerToHyperService::new(service));
        if let Err(error) = watcher.watch(connection.into_owned()).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// A stream that fails when its other end is too slow: with the head of its first request, with any byte
/// at all, or with taking what it asked for.
struct Paced<T> {
    io: T,
    opened: Instant,
    /// The head of a request has come.
    has_begun: Arc<AtomicBool>,
    /// When a byte last went in either direction.
    moved: Instant,
    /// Since when the other end takes nothing.
    stalled: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<T> Paced<T> {
    fn new(io: T, has_begun: Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        let timer = Box::pin(tokio::time::sleep(Duration::from_secs(CONNECTION_OPENING_MAX_S)));
        Paced { io, opened: now, has_begun, moved: now, stalled: None, timer }
    }

    fn deadline(&self) -> Instant {
        let mut deadline = self.moved + Duration::from_secs(CONNECTION_IDLE_MAX_S);
        if !self.has_begun.load(Ordering::Relaxed) {
            deadline = deadline.min(self.opened + Duration::from_secs(CONNECTION_OPENING_MAX_S));
        }
        if let Some(since) = self.stalled {
            deadline = deadline.min(since + Duration::from_secs(CONNECTION_STALL_MAX_S));
        }
        deadline
    }

    /// Fails when the deadline has passed. The timer is set anew only when it fires or is too late, so
    /// that bytes that move cost nothing.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let deadline = self.deadline();
            if Instant::now() >= deadline {
                return Poll::Ready(ErrorKind::TimedOut.into());
            }
            if self.timer.is_elapsed() || self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(context));
        }
    }

    fn written<R>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if poll.is_ready() {
            self.moved = Instant::now();
            self.stalled = None;
            return poll;
        }
        self.stalled.get_or_insert_with(Instant::now);
        self.poll_deadline(context).map(Err)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_read(context, buffer);
        if poll.is_pending() {
            return self.poll_deadline(context).map(Err);
        }
        self.moved = Instant::now();
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(context, bytes);
        self.written(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.written(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(context);
        self.written(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_shutdown(context);
        self.written(context, poll)
    }
}

/// Takes in what remains of the body of a request that is refused, within bounds: a connection that is
/// closed while its other end still sends may lose the answer on the way.
pub async fn drain(body: Body) {
    let drained = async {
        let mut body = Limited::new(body, DRAINED_MAX_BYTES);
        while let Some(Ok(_)) = body.frame().await {}
    };
    // What is slower than that loses its answer.
    let _ = tokio::time::timeout(Duration::from_secs(DRAINED_MAX_S), drained).await;
}

/// KEDA joins its server address and the path, so a trailing slash there gives `//api/...`.
fn single_slashes(request: &mut Request<Incoming>) {
    if !request.uri().path().contains("//") {
        return;
    }
    let mut path = String::with_capacity(request.uri().path().len());
    for character in request.uri().path().chars() {
        if character != '/' || !path.ends_with('/') {
            path.push(character);
        }
    }
    if let Some(query) = request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    if let Ok(uri) = path.parse::<Uri>() {
        *request.uri_mut() = uri;
    }
}
