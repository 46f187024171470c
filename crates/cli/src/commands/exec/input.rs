//! Standard input on its way to a command, and the order to kill it.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::io::AsyncReadExt;

use crate::api::{ExecInput, ExecStream};

/// Bytes of input read at once.
const INPUT_CHUNK: usize = 64 * 1024;
/// A command that ends within this, on a busy machine too, asked for no input, and none is taken from a loop that reads the same file or pipe.
const INPUT_GRACE: Duration = Duration::from_secs(1);

/// Whether the command gets this tool's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFrom {
    Nowhere,
    AtOnce,
    /// When the command has run for a moment.
    AfterGrace,
}

/// Sends standard input and, on request, the order to kill.
pub struct Feeder {
    started: Option<tokio::sync::oneshot::Sender<()>>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Feeder {
    /// Begins to feed a command that is being started.
    ///
    /// # Errors
    /// Its input was taken already.
    pub fn start(stream: &mut ExecStream, from: InputFrom) -> anyhow::Result<Self> {
        let mut input = stream.take_input().context("input taken twice")?;
        let (started_sender, started) = tokio::sync::oneshot::channel();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            if from != InputFrom::Nowhere {
                tokio::select! {
                    biased;
                    asked = &mut stopped => {
                        if asked.is_ok() { let _ = input.stop().await; }
                        return;
                    }
                    () = pump(&mut input, from, started) => {}
                }
            }
            if stopped.await.is_ok() {
                let _ = input.stop().await;
            }
        });
        Ok(Self { started: Some(started_sender), stop, task })
    }

    /// Notes that the command runs.
    pub fn started(&mut self) {
        if let Some(started) = self.started.take() {
            let _ = started.send(());
        }
    }

    /// Sends the order to kill, and waits until it is sent.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn pump(input: &mut ExecInput, from: InputFrom, started: tokio::sync::oneshot::Receiver<()>) {
    if from == InputFrom::AfterGrace {
        if started.await.is_err() {
            return;
        }
        tokio::time::sleep(INPUT_GRACE).await;
    }
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0u8; INPUT_CHUNK];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if input.data(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = input.eof().await;
}
