//! What mails say: one function each, one layout for all, as text and as HTML.

use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wrenn_domain::account::{Email, TeamName};

/// A mail to one person.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Letter {
    kind: String,
    to: String,
    subject: String,
    /// Name of the person who is greeted.
    name: String,
    paragraphs: Vec<String>,
    /// Text and link.
    button: Option<(String, String)>,
}

impl Letter {
    /// Confirms an address.
    pub fn activation(to: &str, name: &str, link: String) -> Self {
        Self::of("activation", to, "Activate your account", name)
            .says("Thank you for signing up. Confirm your e-mail address to activate your account.")
            .says(
                "The link works once, for 30 minutes. If you did not sign up, do nothing: the account will not exist.",
            )
            .with_button("Activate account", link)
    }

    /// Answers a sign-up with an address that has an account.
    pub fn already_signed_up(to: &str) -> Self {
        Self::of("already-signed-up", to, "You have an account already", "")
            .says("Somebody, probably you, tried to sign up with this address. There is an account with it already.")
            .says(
                "Log in with it, or reset its password if you forgot it. If it was not you, nothing needs to be done.",
            )
    }

    /// Brings a reset token.
    pub fn reset(to: &str, name: &str, link: String) -> Self {
        Self::of("password-reset", to, "Reset your password", name)
            .says("Somebody, probably you, asked to reset the password of your account.")
            .says("The link works once, for 15 minutes. If it was not you, do nothing: your password stays as it is.")
            .with_button("Reset password", link)
    }

    /// Tells of a changed password.
    pub fn password_changed(to: &str, name: &str) -> Self {
        Self::of("password-changed", to, "Your password was changed", name)
            .says("The password of your account was changed, and every session was ended.")
            .says("If this was not you, reset the password now and tell the admins of your platform.")
    }

    /// Tells of a deleted account.
    pub fn account_deleted(to: &str, name: &str) -> Self {
        Self::of("account-deleted", to, "Your account was deleted", name)
            .says("Your account was deleted. What is left of it will be removed for good after 15 days.")
            .says("If this was not you, tell the admins of your platform before then.")
    }

    /// Tells that nothing is left.
    pub fn account_purged(to: &str, name: &str) -> Self {
        Self::of("account-purged", to, "Your account is removed", name)
            .says("What was left of your deleted account is removed now. This is the last mail you get from us.")
    }

    /// Tells of a team made.
    pub fn team_created(to: &str, name: &str, team: &TeamName) -> Self {
        Self::of("team-created", to, "Your new team", name).says(format!("The team {team} was created. You own it."))
    }

    /// Tells of a membership.
    pub fn added_to_team(to: &str, name: &str, team: &str) -> Self {
        Self::of("added-to-team", to, "You were added to a team", name).says(format!("You are a member of {team} now."))
    }

    /// A mail of a distribution's own. The subject is fixed text: what users typed belongs into paragraphs. What it says lies in
    /// the database until it leaves.
    pub fn new(kind: &'static str, to: &Email, subject: &'static str, name: &str) -> Self {
        Self::of(kind, to.as_str(), subject, name)
    }

    fn of(kind: &str, to: &str, subject: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            to: to.to_string(),
            subject: subject.to_owned(),
            name: name.to_owned(),
            paragraphs: Vec::new(),
            button: None,
        }
    }

    /// Adds a paragraph.
    pub fn says(mut self, paragraph: impl Into<String>) -> Self {
        self.paragraphs.push(paragraph.into());
        self
    }

    /// Adds a link to press, http or https; not one that is a secret, see [`Letter::new`].
    pub fn with_button(mut self, text: &'static str, link: String) -> Self {
        self.button = Some((text.to_owned(), link));
        self
    }

    /// Short word for logs and file names.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The whole message. `id` is the same in every try, so that who gets it twice can tell.
    pub(super) fn message(&self, from: &Email, id: Uuid) -> Result<Message, lettre::error::Error> {
        let address = |text: &str| text.parse::<Address>().map_err(|_| lettre::error::Error::EmailMissingAt);
        let from = address(from.as_str())?;
        let id = format!("<{}@{}>", id.simple(), from.domain());
        Message::builder()
            .from(Mailbox::new(Some("Wrenn".to_owned()), from))
            .to(Mailbox::new(None, address(&self.to)?))
            .subject(self.subject.clone())
            .message_id(Some(id))
            .multipart(MultiPart::alternative_plain_html(self.text(), self.html()))
    }

    fn greeting(&self) -> String {
        if self.name.is_empty() { "Hello,".to_owned() } else { format!("Hello {},", self.name) }
    }

    fn text(&self) -> String {
        let mut parts = vec![self.greeting()];
        parts.extend(self.paragraphs.iter().cloned());
        parts.extend(self.button.iter().map(|(text, link)| format!("{text}: {link}")));
        parts.push("Wrenn".to_owned());
        parts.join("\r\n\r\n")
    }

    fn html(&self) -> String {
        let mut body = format!("<p>{}</p>", escaped(&self.greeting()));
        for paragraph in &self.paragraphs {
            body.push_str(&format!("<p>{}</p>", escaped(paragraph)));
        }
        if let Some((text, link)) = &self.button
            && (link.starts_with("https://") || link.starts_with("http://"))
        {
            let link = escaped(link);
            body.push_str(&format!(
                "<p><a href=\"{link}\" style=\"display:inline-block;padding:10px 18px;border-radius:6px;\
                 background:#1f2937;color:#ffffff;text-decoration:none\">{}</a></p>\
                 <p style=\"color:#6b7280;font-size:13px\">Or open {link}</p>",
                escaped(text)
            ));
        }
        format!(
            "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title></head>\
             <body style=\"font-family:system-ui,sans-serif;color:#111827;max-width:36rem;margin:2rem auto;padding:0 1rem\">\
             {body}<p style=\"color:#6b7280\">Wrenn</p></body></html>",
            escaped(&self.subject)
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_typed_stays_text_in_html_and_out_of_headers() {
        let to: Email = "a@example.com".parse().expect("an address");
        let letter = Letter::added_to_team(to.as_str(), "<b>\r\nBcc: x@y.io", "<script>alert(1)</script>");
        let html = letter.html();
        assert!(!html.contains("<script>") && !html.contains("<b>"), "{html}");
        let message = letter.message(&to, Uuid::nil()).expect("a message").formatted();
        let message = String::from_utf8(message).expect("text");
        let (head, _) = message.split_once("\r\n\r\n").expect("a head");
        assert!(!head.contains("Bcc"), "{head}");
    }

    #[test]
    fn a_link_that_is_no_web_link_gets_no_button() {
        let to: Email = "a@example.com".parse().expect("an address");
        let letter = Letter::reset(to.as_str(), "Ann", "javascript:alert(1)".to_owned());
        assert!(!letter.html().contains("javascript"), "{}", letter.html());
    }
}
