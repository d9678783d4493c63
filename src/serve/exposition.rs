//! The answer to `GET /metrics`, sent while it is rendered.
//!
//! Each piece is rendered when the connection asks for it and handed over without a copy, so that a scrape of
//! ten thousand variants (tens of megabytes) needs the memory of a few pieces, however slow its reader is. After
//! each piece the connection lets others have their turn.

use super::{Context, bounds};
use crate::engine::Stats;
use crate::publish::Board;
use crate::publish::exposition::{BoardText, Format, Writer};
use crate::publish::history::HistoryStats;
use axum::body::{Body, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

/// Size of a piece: a part of what a core's cache holds, and some tens of microseconds of work.
const PIECE_BYTES: usize = 128 << 10;
/// What the last line of a piece may need beyond that.
const LINE_BYTES: usize = 4 << 10;

/// The exposition as of one moment, as far as it has not been sent.
pub struct Exposition {
    format: Format,
    writer: Writer,
    variants: BoardText,
    /// What follows the variants; `None` when all is written.
    own: Option<Own>,
    /// A piece was given, and the others have not had their turn since.
    has_given: bool,
}

/// What the sidecar says of itself.
struct Own {
    context: Context,
    board: Arc<Board>,
    stats: Arc<Stats>,
    record: HistoryStats,
}

impl Exposition {
    /// The exposition as of now.
    pub fn new(context: Context, format: Format) -> Self {
        let board = context.engine.board();
        let now = context.engine.clock.reader_now(&board);
        let (stats, record) = (context.engine.stats(), context.engine.record().stats());
        let variants = BoardText::new(&board, now, context.wva_aliases);
        let writer = Writer::with_room(format, PIECE_BYTES + LINE_BYTES);
        let own = Some(Own { context, board, stats, record });
        Exposition { format, writer, variants, own, has_given: false }
    }

    /// The answer: whole where one piece is all there is.
    pub fn answer(mut self) -> Response {
        let content_type = [(header::CONTENT_TYPE, self.format.content_type())];
        self.render();
        match &self.own {
            None => (content_type, Body::new(Full::from(self.writer.take()))).into_response(),
            Some(_) => (content_type, Body::new(self)).into_response(),
        }
    }

    /// Renders until a piece is full or all is written.
    fn render(&mut self) {
        if self.variants.write(&mut self.writer, PIECE_BYTES) {
            return;
        }
        let Some(Own { context, board, stats, record }) = self.own.take() else { return };
        let writer = &mut self.writer;
        context.own.write(writer, &board, &stats, record);
        bounds::write(&context, writer, &stats, record);
        if let Some(counters) = &context.engine.tape {
            context.own.write_recorder(writer, counters);
        }
        writer.end();
    }
}

impl HttpBody for Exposition {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.has_given) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.writer.is_empty() {
            this.render();
        }
        if this.writer.is_empty() {
            return Poll::Ready(None);
        }
        this.has_given = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(this.writer.take())))))
    }
}
