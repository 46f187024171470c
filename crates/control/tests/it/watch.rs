//! A reader of server-sent events.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::harness::SOON;

/// One frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub id: Option<String>,
    pub event: String,
    pub data: Value,
}

/// A stream that is being read.
pub struct Watch {
    body: Incoming,
    text: String,
    /// Comments met so far.
    pub comments: Vec<String>,
}

impl Frame {
    /// `event outcome` or `from>to`, to compare with.
    pub fn short(&self) -> String {
        match self.event.as_str() {
            "capsule.state.changed" => {
                let of = |key: &str| self.data["metadata"][key].as_str().unwrap_or("?").to_owned();
                format!("{}>{}", of("from"), of("to"))
            }
            event => match self.data["outcome"].as_str() {
                Some(outcome) => format!("{event} {outcome}"),
                None => event.to_owned(),
            },
        }
    }

    pub fn of(&self) -> &str {
        self.data["resource"]["id"].as_str().unwrap_or_default()
    }
}

impl Watch {
    /// Opens a stream and takes the frame that says so.
    pub async fn open(base: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let (mut watch, first) = Self::begin(base, path, headers).await;
        assert_eq!((first.event.as_str(), first.id.as_deref()), ("connected", None));
        assert_eq!(first.data["message"], "connected");
        watch.comments.clear();
        watch
    }

    /// Opens a stream; the first frame beside it.
    pub async fn begin(base: &str, path: &str, headers: &[(&str, &str)]) -> (Self, Frame) {
        let mut watch = Self::raw(base, path, headers).await;
        let first = watch.next().await.expect("a first frame");
        (watch, first)
    }

    /// Opens a stream and reads nothing of it.
    pub async fn raw(base: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let mut request = Request::builder().method(Method::GET).uri(format!("{base}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = client.request(request.body(Full::default()).expect("valid")).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body(), text: String::new(), comments: Vec::new() }
    }

    /// The next frame; none when the stream has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(SOON, self.read()).await.expect("a frame in time")
    }

    /// Frames until one is as wanted, that one included.
    pub async fn until(&mut self, wanted: &str) -> Vec<Frame> {
        let mut seen: Vec<Frame> = Vec::new();
        let all = async {
            loop {
                let frame = self.read().await.unwrap_or_else(|| panic!("the stream ended before {wanted}"));
                let found = frame.short() == wanted;
                seen.push(frame);
                if found {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(SOON, all).await.is_ok();
        assert!(in_time, "no {wanted} after {:?}", seen.iter().map(Frame::short).collect::<Vec<_>>());
        seen
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let (mut id, mut event, mut data) = (None, None, None);
                for line in block.lines() {
                    match line.split_once(": ").expect("a field") {
                        ("", comment) => self.comments.push(comment.to_owned()),
                        ("id", value) => id = Some(value.to_owned()),
                        ("event", value) => event = Some(value.to_owned()),
                        ("data", value) => data = Some(serde_json::from_str(value).expect("JSON")),
                        other => panic!("{other:?}"),
                    }
                }
                if let (Some(event), Some(data)) = (event, data) {
                    return Some(Frame { id, event, data });
                }
            }
            if !self.receive().await {
                return None;
            }
        }
    }

    /// Waits until a comment has arrived, without taking what stands before it.
    pub async fn until_comment(&mut self, wanted: &str) {
        let line = format!(": {wanted}\n\n");
        let arrived = async {
            while !self.text.contains(&line) {
                assert!(self.receive().await, "the stream ended before {wanted}");
            }
        };
        tokio::time::timeout(SOON, arrived).await.expect("the comment in time");
    }

    /// Reads the next piece of the body; false when the stream has ended or was cut.
    async fn receive(&mut self) -> bool {
        let Some(Ok(frame)) = self.body.frame().await else { return false };
        self.text.push_str(std::str::from_utf8(&frame.into_data().expect("data")).expect("UTF-8"));
        true
    }
}
