//! KEDA's external scaler over gRPC, for `external` and `external-push` triggers.
//!
//! Reads the board like every other reader. A variant that is not known, or for which nothing has been
//! decided, is an error with its reason: to answer 0 or "inactive" would scale it to zero.

mod push;
mod trigger;

/// Messages and service as generated from `proto/externalscaler.proto`.
mod wire {
    #![allow(missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/externalscaler.rs"));
}

use super::{Closing, Context};
use crate::limits::{FORM_BODY_MAX_S, SCALER_REQUEST_MAX_BYTES};
use axum::Router;
use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::middleware::{Next, from_fn};
use axum::response::Response as HttpResponse;
use futures_util::stream::{Stream, StreamExt, once};
use http_body_util::{BodyExt, Limited};
use push::Push;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Request, Response, Status};
use trigger::Trigger;
use wire::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use wire::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};

/// Path of every method of the service.
const PATH: &str = "/externalscaler.ExternalScaler/{method}";

/// Bytes before a message: whether it is compressed, and its length.
const FRAME_BYTES: usize = 5;

type Pushed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service with its path.
pub fn routes(context: &Context) -> Router<Context> {
    Router::new().route_service(PATH, service(context.clone())).route_layer(from_fn(whole_message))
}

/// Reads a request's one message within its limits before it takes up anything else: a stream that never
/// ends its message would be held for ever.
async fn whole_message(request: HttpRequest, next: Next) -> HttpResponse {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, SCALER_REQUEST_MAX_BYTES + FRAME_BYTES).collect();
    let status = match tokio::time::timeout(Duration::from_secs(FORM_BODY_MAX_S), body).await {
        Ok(Ok(body)) => return next.run(HttpRequest::from_parts(parts, Body::from(body.to_bytes()))).await,
        Ok(Err(_)) => Status::out_of_range("the message is cut off or larger than any trigger's metadata"),
        Err(_) => Status::deadline_exceeded("the message did not arrive in time"),
    };
    status.into_http()
}

/// The service, ready to be routed to.
fn service(context: Context) -> ExternalScalerServer<impl ExternalScaler> {
    let streams = context.scaler_streams.clone();
    ExternalScalerServer::new(Scaler { context, streams }).max_decoding_message_size(SCALER_REQUEST_MAX_BYTES)
}

struct Scaler {
    context: Context,
    /// One permit per open stream.
    streams: Arc<Semaphore>,
}

impl Scaler {
    /// Checks the metadata and that the variant exists.
    fn checked(&self, object: &ScaledObjectRef) -> Result<Trigger, Status> {
        let trigger = Trigger::parse(object)?;
        let board = self.context.engine.board();
        // Before there is a configuration nothing can be said about it.
        if board.configured {
            trigger.find(&board)?;
        }
        Ok(trigger)
    }

    fn desired(&self, trigger: &Trigger) -> Result<u32, Status> {
        let board = self.context.engine.board();
        trigger.desired(&board, self.context.engine.clock.reader_now(&board))
    }

    fn is_active(&self, object: &ScaledObjectRef) -> Result<IsActiveResponse, Status> {
        let trigger = Trigger::parse(object)?;
        Ok(IsActiveResponse { result: trigger.is_active(self.desired(&trigger)?) })
    }

    fn metrics(&self, request: &GetMetricsRequest) -> Result<GetMetricsResponse, Status> {
        let none = ScaledObjectRef::default();
        let trigger = Trigger::parse(request.scaled_object_ref.as_ref().unwrap_or(&none))?;
        trigger.check_metric(&request.metric_name)?;
        let desired = self.desired(&trigger)?;
        let value = MetricValue {
            metric_name: trigger.metric,
            metric_value: i64::from(desired),
            metric_value_float: f64::from(desired),
        };
        Ok(GetMetricsResponse { metric_values: vec![value] })
    }

    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = self.streams.clone().try_acquire_owned();
        permit.map_err(|_| Status::resource_exhausted("too many streams are open; poll instead"))
    }

    fn push(&self, request: Request<ScaledObjectRef>) -> Result<Pushed<IsActiveResponse>, Status> {
        let closing = request.extensions().get::<Closing>().cloned();
        let trigger = self.checked(request.get_ref())?;
        let permit = self.stream_permit()?;
        let push = Push::new(trigger, self.context.engine.clone(), closing);
        let stream = push.into_stream().map(move |active| {
            let _held_while_open = &permit;
            active.map(|result| IsActiveResponse { result })
        });
        Ok(Box::pin(stream))
    }

    /// The specification depends on the metadata alone, so it is sent once and the stream held open.
    fn push_spec(&self, request: Request<ScaledObjectRef>) -> Result<Pushed<GetMetricSpecResponse>, Status> {
        let closing = request.extensions().get::<Closing>().cloned();
        let spec = spec(self.checked(request.get_ref())?);
        let permit = self.stream_permit()?;
        let until_the_end = once(async move {
            push::closed(closing).await;
            drop(permit);
        });
        let open = until_the_end.filter_map(|()| async { None });
        Ok(Box::pin(once(async { Ok(spec) }).chain(open)))
    }

    fn answer<T>(&self, method: &str, result: Result<T, Status>) -> Result<Response<T>, Status> {
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.context.own.scaler_called(method, code);
        result.map(Response::new)
    }
}

/// Integers are whole, so a fractional target is rounded up in its integer form.
fn spec(trigger: Trigger) -> GetMetricSpecResponse {
    let spec = MetricSpec {
        metric_name: trigger.metric,
        target_size: trigger.target.ceil() as i64,
        target_size_float: trigger.target,
    };
    GetMetricSpecResponse { metric_specs: vec![spec] }
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        self.answer("IsActive", self.is_active(request.get_ref()))
    }

    type StreamIsActiveStream = Pushed<IsActiveResponse>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        self.answer("StreamIsActive", self.push(request))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.answer("GetMetricSpec", self.checked(request.get_ref()).map(spec))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        self.answer("GetMetrics", self.metrics(request.get_ref()))
    }

    type StreamMetricSpecStream = Pushed<GetMetricSpecResponse>;

    async fn stream_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        self.answer("StreamMetricSpec", self.push_spec(request))
    }
}
