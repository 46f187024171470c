//! How each provider is spoken to: one request for one notice.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use http::{Method, Request, Uri, header};
use http_body_util::Full;
use ring::hmac;
use serde_json::{Value, json};
use uuid::Uuid;
use wrenn_domain::notification_channel::{ChannelConfig, Provider};

use super::notice::Notice;
use crate::percent::escape;

/// Telegram's own bot server.
const TELEGRAM: &str = "https://api.telegram.org";

/// The request that tells `notice`; none when the configuration makes no request.
pub(crate) fn request(config: &ChannelConfig, notice: &Notice, now: DateTime<Utc>) -> Option<Request<Full<Bytes>>> {
    match config.provider() {
        Provider::Webhook => webhook(config, notice, now),
        Provider::Discord => {
            // Nobody is called by a name that happens to stand in an error's text.
            let body = json!({ "content": notice.text(), "allowed_mentions": { "parse": [] } });
            post(&asked_to_wait(config.value("webhook_url"))?, &body)
        }
        Provider::Slack => post(config.value("webhook_url"), &json!({ "text": for_slack(&notice.text()) })),
        Provider::GoogleChat => {
            // "<users/all>" would call everybody.
            post(config.value("webhook_url"), &json!({ "text": notice.text().replace('<', "\u{2039}") }))
        }
        Provider::Teams => post(config.value("webhook_url"), &card(notice)),
        Provider::Telegram => {
            let api = Some(config.value("api_url")).filter(|url| !url.is_empty()).unwrap_or(TELEGRAM);
            let url = format!("{}/bot{}/sendMessage", api.trim_end_matches('/'), config.value("bot_token"));
            let preview = json!({ "is_disabled": true });
            let body =
                json!({ "chat_id": config.value("chat_id"), "text": notice.text(), "link_preview_options": preview });
            post(&url, &body)
        }
        Provider::Matrix => {
            // The transaction id makes a second try no second message.
            let url = format!(
                "{}/_matrix/client/v3/rooms/{}/send/m.room.message/{}",
                config.value("homeserver_url").trim_end_matches('/'),
                escape(config.value("room_id")),
                escape(&notice.id)
            );
            let mut request = with_json(Method::PUT, &url, &json!({ "msgtype": "m.notice", "body": notice.text() }))?;
            let token = header::HeaderValue::from_str(&format!("Bearer {}", config.value("access_token")));
            request.headers_mut().insert(header::AUTHORIZATION, token.ok()?);
            Some(request)
        }
    }
}

/// The event itself, signed over the moment and every byte.
fn webhook(config: &ChannelConfig, notice: &Notice, now: DateTime<Utc>) -> Option<Request<Full<Bytes>>> {
    let timestamp = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    let request = Request::builder()
        .method(Method::POST)
        .uri(config.value("url"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-wrenn-event", &notice.id)
        .header("x-wrenn-delivery", Uuid::new_v4().to_string())
        .header("x-wrenn-timestamp", &timestamp)
        .header("x-wrenn-signature", signature(config.value("secret"), &timestamp, &notice.payload));
    request.body(Full::new(Bytes::from(notice.payload.clone()))).ok()
}

fn signature(secret: &str, timestamp: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{timestamp}.{body}").as_bytes());
    format!("sha256={}", hex::encode(tag))
}

fn post(url: &str, body: &Value) -> Option<Request<Full<Bytes>>> {
    with_json(Method::POST, url, body)
}

fn with_json(method: Method, url: &str, body: &Value) -> Option<Request<Full<Bytes>>> {
    let request = Request::builder().method(method).uri(url).header(header::CONTENT_TYPE, "application/json");
    request.body(Full::new(Bytes::from(body.to_string()))).ok()
}

/// Discord tells of a message it could not post only to those who wait for it.
fn asked_to_wait(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let sign = if uri.query().is_some() { '&' } else { '?' };
    Some(format!("{}{sign}wait=true", url.split('#').next()?))
}

/// Source: Slack's rules for text, "escaping text".
fn for_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An Adaptive Card, which is what a Teams workflow takes.
fn card(notice: &Notice) -> Value {
    let facts: Vec<_> = notice.lines.iter().map(|(title, value)| json!({ "title": title, "value": value })).collect();
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": [
                    { "type": "TextBlock", "text": notice.summary, "weight": "Bolder", "wrap": true },
                    { "type": "FactSet", "facts": facts },
                ],
            },
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_any_other_program_computes() {
        // printf '2026-11-30T10:00:00Z.{"a":1}' | openssl dgst -sha256 -hmac hunter2
        assert_eq!(
            signature("hunter2", "2026-11-30T10:00:00Z", r#"{"a":1}"#),
            "sha256=67eccfb775f2f860844627b213414da682284eb36af3cb132499d259b2292c0b"
        );
    }

    #[test]
    fn a_query_that_is_there_stays() {
        assert_eq!(
            asked_to_wait("https://x.io/a?thread_id=1").as_deref(),
            Some("https://x.io/a?thread_id=1&wait=true")
        );
        assert_eq!(asked_to_wait("https://x.io/a").as_deref(), Some("https://x.io/a?wait=true"));
    }
}
