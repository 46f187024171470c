//! What mails say: one function each, one layout for all, as text and as HTML.

use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message};
use wrenn_domain::account::{Email, TeamName};

/// A mail to one person.
#[derive(Debug, Clone)]
pub struct Letter {
    kind: &'static str,
    to: Email,
    subject: &'static str,
    /// Who is greeted.
    name: String,
    paragraphs: Vec<String>,
    /// Text and link.
    button: Option<(&'static str, String)>,
}

impl Letter {
    /// Confirms an address.
    pub fn activation(to: &Email, name: &str, link: String) -> Self {
        Self::new("activation", to, "Activate your account", name)
            .says("Thank you for signing up. Confirm your e-mail address to activate your account.")
            .says(
                "The link works once, for 30 minutes. If you did not sign up, do nothing: the account will not exist.",
            )
            .with_button("Activate account", link)
    }

    /// Answers a sign-up with an address that has an account.
    pub fn already_signed_up(to: &Email) -> Self {
        Self::new("already-signed-up", to, "You have an account already", "")
            .says("Somebody, probably you, tried to sign up with this address. There is an account with it already.")
            .says(
                "Log in with it, or reset its password if you forgot it. If it was not you, nothing needs to be done.",
            )
    }

    /// Brings a reset token.
    pub fn reset(to: &Email, name: &str, link: String) -> Self {
        Self::new("password-reset", to, "Reset your password", name)
            .says("Somebody, probably you, asked to reset the password of your account.")
            .says("The link works once, for 15 minutes. If it was not you, do nothing: your password stays as it is.")
            .with_button("Reset password", link)
    }

    /// Tells of a changed password.
    pub fn password_changed(to: &Email, name: &str) -> Self {
        Self::new("password-changed", to, "Your password was changed", name)
            .says("The password of your account was changed, and every session was ended.")
            .says("If this was not you, reset the password now and tell the admins of your platform.")
    }

    /// Tells of a deleted account.
    pub fn account_deleted(to: &Email, name: &str) -> Self {
        Self::new("account-deleted", to, "Your account was deleted", name)
            .says("Your account was deleted. What is left of it will be removed for good after 15 days.")
            .says("If this was not you, tell the admins of your platform before then.")
    }

    /// Tells that nothing is left.
    pub fn account_purged(to: &Email, name: &str) -> Self {
        Self::new("account-purged", to, "Your account is removed", name)
            .says("What was left of your deleted account is removed now. This is the last mail you get from us.")
    }

    /// Tells of a team made.
    pub fn team_created(to: &Email, name: &str, team: &TeamName) -> Self {
        Self::new("team-created", to, "Your new team", name).says(format!("The team {team} was created. You own it."))
    }

    /// Tells of a membership.
    pub fn added_to_team(to: &Email, name: &str, team: &str) -> Self {
        Self::new("added-to-team", to, "You were added to a team", name)
            .says(format!("You are a member of {team} now."))
    }

    /// A mail of a distribution's own. The subject is fixed text: what users typed belongs into paragraphs.
    pub fn new(kind: &'static str, to: &Email, subject: &'static str, name: &str) -> Self {
        Self { kind, to: to.clone(), subject, name: name.to_owned(), paragraphs: Vec::new(), button: None }
    }

    /// Adds a paragraph.
    pub fn says(mut self, paragraph: impl Into<String>) -> Self {
        self.paragraphs.push(paragraph.into());
        self
    }

    /// Adds a link to press, http or https.
    pub fn with_button(mut self, text: &'static str, link: String) -> Self {
        self.button = Some((text, link));
        self
    }

    /// Short word for logs and file names.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The whole message.
    pub(super) fn message(&self, from: &Email) -> Result<Message, lettre::error::Error> {
        let address = |email: &Email| email.as_str().parse::<Address>();
        let broken = |_| lettre::error::Error::EmailMissingAt;
        Message::builder()
            .from(Mailbox::new(Some("Wrenn".to_owned()), address(from).map_err(broken)?))
            .to(Mailbox::new(None, address(&self.to).map_err(broken)?))
            .subject(self.subject)
            .message_id(None)
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
                 background:#1f2937;color:#ffffff;text-decoration:none\">{text}</a></p>\
                 <p style=\"color:#6b7280;font-size:13px\">Or open {link}</p>"
            ));
        }
        format!(
            "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title></head>\
             <body style=\"font-family:system-ui,sans-serif;color:#111827;max-width:36rem;margin:2rem auto;padding:0 1rem\">\
             {body}<p style=\"color:#6b7280\">Wrenn</p></body></html>",
            escaped(self.subject)
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
        let letter = Letter::added_to_team(&to, "<b>\r\nBcc: x@y.io", "<script>alert(1)</script>");
        let html = letter.html();
        assert!(!html.contains("<script>") && !html.contains("<b>"), "{html}");
        let message = letter.message(&to).expect("a message").formatted();
        let message = String::from_utf8(message).expect("text");
        let (head, _) = message.split_once("\r\n\r\n").expect("a head");
        assert!(!head.contains("Bcc"), "{head}");
    }

    #[test]
    fn a_link_that_is_no_web_link_gets_no_button() {
        let to: Email = "a@example.com".parse().expect("an address");
        let letter = Letter::reset(&to, "Ann", "javascript:alert(1)".to_owned());
        assert!(!letter.html().contains("javascript"), "{}", letter.html());
    }
}
