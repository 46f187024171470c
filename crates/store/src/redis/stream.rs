//! The event stream: a Redis stream with one consumer group per kind of receiver.
//!
//! It carries and wakes; it is not where events are kept. An entry lost here is found again in the outbox.

use std::time::Duration;

use redis::AsyncCommands;
use redis::Value;
use redis::streams::{
    StreamAutoClaimOptions, StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamReadOptions,
    StreamReadReply,
};
use wrenn_domain::limits::{EVENT_BATCH_MAX, EVENT_STREAM_ENTRIES};

use super::{Redis, RedisError};

/// The one field of an entry.
const PAYLOAD: &str = "payload";

/// An entry of the stream, in the hands of one consumer until it is acknowledged.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Redis's id of it.
    pub id: String,
    /// JSON; empty when the entry is not ours or was trimmed.
    pub payload: String,
}

/// A consumer's place at the stream. Reads block, so it has a connection of its own.
pub struct Reader {
    connection: redis::aio::MultiplexedConnection,
    stream: String,
    group: String,
    consumer: String,
}

impl Redis {
    /// Appends payloads in order. All or, when the connection breaks, an unknown part of them.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn events_append(&self, payloads: &[String]) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        for payload in payloads {
            pipe.cmd("XADD")
                .arg(self.events_stream())
                .arg("MAXLEN")
                .arg("~")
                .arg(EVENT_STREAM_ENTRIES)
                .arg("*")
                .arg(PAYLOAD)
                .arg(payload)
                .ignore();
        }
        let mut manager = self.manager.clone();
        pipe.query_async::<()>(&mut manager).await.map_err(|source| RedisError { act: "append events", source })
    }

    /// Takes a consumer's place in a group; the group is made when missing, from the stream's beginning.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn events_reader(&self, group: &str, consumer: &str, block: Duration) -> Result<Reader, RedisError> {
        let wrap = |source| RedisError { act: "join the event stream", source };
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(block + Duration::from_secs(2)));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(wrap)?;
        let mut reader =
            Reader { connection, stream: self.events_stream(), group: group.to_owned(), consumer: consumer.to_owned() };
        reader.ensure_group().await?;
        Ok(reader)
    }

    fn events_stream(&self) -> String {
        format!("{}events", self.prefix)
    }
}

impl Reader {
    /// Makes the group, also after Redis lost it.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn ensure_group(&mut self) -> Result<(), RedisError> {
        let made: Result<(), redis::RedisError> =
            self.connection.xgroup_create_mkstream(&self.stream, &self.group, "0").await;
        match made {
            Err(source) if source.code() != Some("BUSYGROUP") => {
                Err(RedisError { act: "make a consumer group", source })
            }
            _ => Ok(()),
        }
    }

    /// New entries, waiting up to `block` for the first.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn fresh(&mut self, block: Duration) -> Result<Vec<Entry>, RedisError> {
        let options = StreamReadOptions::default()
            .group(&self.group, &self.consumer)
            .count(EVENT_BATCH_MAX)
            .block(block.as_millis() as usize);
        let reply: Option<StreamReadReply> = self
            .connection
            .xread_options(&[&self.stream], &[">"], &options)
            .await
            .map_err(|source| RedisError { act: "read events", source })?;
        let streams = reply.map(|reply| reply.keys).unwrap_or_default();
        Ok(streams.into_iter().flat_map(|stream| stream.ids).map(entry).collect())
    }

    /// Entries some consumer took at least `idle` ago and did not acknowledge, now in this one's hands.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn reclaim(&mut self, idle: Duration) -> Result<Vec<Entry>, RedisError> {
        let options = StreamAutoClaimOptions::default().count(EVENT_BATCH_MAX);
        let reply: StreamAutoClaimReply = self
            .connection
            .xautoclaim_options(&self.stream, &self.group, &self.consumer, idle.as_millis() as usize, "0-0", options)
            .await
            .map_err(|source| RedisError { act: "reclaim events", source })?;
        Ok(reply.claimed.into_iter().map(entry).collect())
    }

    /// Forgets consumers that owe nothing and were silent for so long: every process has a name of its own.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn forget_consumers(&mut self, idle: Duration) -> Result<(), RedisError> {
        let wrap = |source| RedisError { act: "forget consumers", source };
        let known: StreamInfoConsumersReply =
            self.connection.xinfo_consumers(&self.stream, &self.group).await.map_err(wrap)?;
        for consumer in known.consumers {
            if consumer.pending == 0 && consumer.idle > idle.as_millis() as usize && consumer.name != self.consumer {
                self.connection
                    .xgroup_delconsumer::<_, _, _, ()>(&self.stream, &self.group, &consumer.name)
                    .await
                    .map_err(wrap)?;
            }
        }
        Ok(())
    }

    /// Acknowledges an entry: it is done with.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn acknowledge(&mut self, id: &str) -> Result<(), RedisError> {
        self.connection
            .xack::<_, _, _, ()>(&self.stream, &self.group, &[id])
            .await
            .map_err(|source| RedisError { act: "acknowledge an event", source })
    }
}

fn entry(id: StreamId) -> Entry {
    let payload = match id.map.get(PAYLOAD) {
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    Entry { id: id.id, payload }
}
