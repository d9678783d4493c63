//! A plain HTTP client for tests: one connection per request, and no header that was not asked for.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("answers are UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are ASCII"))
    }
}

/// Sends a request as it is, with `Host` added.
pub async fn send(address: SocketAddr, mut request: Request<Body>) -> Result<Answer, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let host = address.to_string().parse().map_err(|_| "an address is a valid header")?;
    request.headers_mut().insert(header::HOST, host);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    connection.abort();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// `GET` of a path with its query.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    let request = Request::builder().uri(path).body(Body::empty()).map_err(|error| error.to_string())?;
    send(address, request).await
}

/// `POST` of a form.
pub async fn post_form(address: SocketAddr, path: &str, form: String) -> Result<Answer, String> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form))
        .map_err(|error| error.to_string())?;
    send(address, request).await
}

/// Pairs as a form or a URL's query.
pub fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The elements of an instant vector.
pub fn vector(answer: &Answer) -> Vec<Value> {
    let json = answer.json();
    assert_eq!(json["status"], "success", "{json}");
    assert_eq!(json["data"]["resultType"], "vector", "{json}");
    json["data"]["result"].as_array().unwrap_or_else(|| panic!("no list of results in {json}")).clone()
}
