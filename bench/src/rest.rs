//! A plain HTTP/1.1 client on one kept-alive connection: what an SDK does, without its overhead.

use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use wrenn_vmtest::Stack;

/// A connection, with the credential every request carries.
pub struct Rest {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    /// Header and value; none for nobody.
    credential: Option<(&'static str, String)>,
}

impl Rest {
    /// Connects to the stack's control plane.
    pub async fn connect(stack: &Stack) -> anyhow::Result<Self> {
        let host = stack.value("WRENN_BASE_URL")?.trim_start_matches("http://").to_owned();
        Self::to(&host, &stack.value("WRENN_API_KEY")?).await
    }

    /// Connects to any server, with an API key.
    pub async fn to(host: &str, key: &str) -> anyhow::Result<Self> {
        Self::with(host, Some(("x-api-key", key.to_owned()))).await
    }

    /// Connects to any server, with any credential.
    pub async fn with(host: &str, credential: Option<(&'static str, String)>) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(host).await.with_context(|| host.to_owned())?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host: host.to_owned(), credential })
    }

    /// One request.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request =
            Request::builder().method(method).uri(path).header("host", &self.host).header("content-type", content_type);
        if let Some((name, value)) = &self.credential {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(response)
    }

    /// A JSON request and answer.
    pub async fn json(&mut self, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let response = self.send(method, path, "application/json", body).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes)? })
    }

    /// Runs a command in a capsule to its end; it must succeed.
    pub async fn exec(&mut self, id: &str, cmd: &str, args: &[&str]) -> anyhow::Result<String> {
        let path = format!("/v1/capsules/{id}/exec");
        let answer = self.json(Method::POST, &path, json!({"cmd": cmd, "args": args})).await?;
        ensure!(answer["exit_code"] == 0, "{cmd} {args:?}: {answer}");
        Ok(answer["stdout"].as_str().unwrap_or_default().to_owned())
    }

    /// Creates a capsule and returns at its first successful exec.
    pub async fn create_until_exec(&mut self) -> anyhow::Result<String> {
        let id = self.create().await?;
        self.ready(&id).await?;
        Ok(id)
    }

    /// Asks for a capsule.
    pub async fn create(&mut self) -> anyhow::Result<String> {
        let made = self.json(Method::POST, "/v1/capsules", json!({"template": "minimal"})).await?;
        Ok(made["id"].as_str().context("no id")?.to_owned())
    }

    /// Waits until it runs and has run a command.
    pub async fn ready(&mut self, id: &str) -> anyhow::Result<()> {
        self.until(id, "running").await?;
        ensure!(self.exec(id, "/bin/echo", &["ready"]).await?.trim() == "ready", "no echo");
        Ok(())
    }

    /// Resumes a capsule and returns at its first successful exec.
    pub async fn resume_until_exec(&mut self, id: &str) -> anyhow::Result<()> {
        self.json(Method::POST, &format!("/v1/capsules/{id}/resume"), Value::Null).await?;
        self.ready(id).await
    }

    /// Pauses a capsule and returns when it is.
    pub async fn pause(&mut self, id: &str) -> anyhow::Result<()> {
        self.json(Method::POST, &format!("/v1/capsules/{id}/pause"), Value::Null).await?;
        self.until(id, "paused").await
    }

    async fn until(&mut self, id: &str, status: &str) -> anyhow::Result<()> {
        loop {
            let capsule = self.json(Method::GET, &format!("/v1/capsules/{id}"), Value::Null).await?;
            match capsule["status"].as_str() {
                Some(now) if now == status => return Ok(()),
                Some("starting" | "resuming" | "pausing") => tokio::time::sleep(Duration::from_millis(5)).await,
                _ => anyhow::bail!("{capsule}"),
            }
        }
    }

    /// Deletes a capsule and waits until it is gone.
    pub async fn remove(&mut self, id: &str) -> anyhow::Result<()> {
        let path = format!("/v1/capsules/{id}");
        self.json(Method::DELETE, &path, Value::Null).await?;
        while self.json(Method::GET, &path, Value::Null).await?["status"] != "stopped" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
