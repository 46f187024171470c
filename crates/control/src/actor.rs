//! Who asks: the outcome of every kind of credential.

use chrono::{DateTime, Utc};
use wrenn_domain::event::ActorType;
use wrenn_domain::ids::{KeyId, TeamId, UserId};
use wrenn_domain::key::ApiKeyHash;
use wrenn_domain::role::Role;
use wrenn_domain::secret::SecretHash;
use wrenn_store::pg::{Author, KeyActor, SessionFacts};

/// Somebody who may use a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub team: TeamId,
    pub who: Who,
    /// The key it was known by; none for a session.
    pub key: Option<UsedKey>,
    /// Credential that can be looked up again to see whether it still holds.
    pub credential: Credential,
}

/// In whose name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// The team's own: a key that belongs to no person.
    Team,
    Person {
        user: UserId,
        email: String,
        name: String,
        /// For display; acts read it again.
        role: Role,
    },
}

/// A key that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedKey {
    pub id: KeyId,
    pub name: String,
    pub expires_at: Option<DateTime<Utc>>,
}

/// A credential by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    Key(ApiKeyHash),
    Session(SecretHash),
}

/// A person, by session or personal key. Unlike an [`Actor`] it may be in no team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub user: UserId,
    pub email: String,
    pub name: String,
    /// The team it works in now, with the role it had when looked up.
    pub team: Option<(TeamId, Role)>,
}

impl Actor {
    /// The actor of a key.
    pub fn of_key(hash: ApiKeyHash, found: KeyActor) -> Self {
        let who = match found.acts_for {
            None => Who::Team,
            Some(person) => {
                Who::Person { user: person.user, email: person.email, name: person.name, role: person.role }
            }
        };
        let key = Some(UsedKey { id: found.key, name: found.key_name, expires_at: found.expires_at });
        Self { team: found.team, who, key, credential: Credential::Key(hash) }
    }

    /// The actor of a session; none while its user is in no team.
    pub fn of_session(hash: &SecretHash, facts: &SessionFacts) -> Option<Self> {
        let (team, role) = facts.team?;
        let who = Who::Person { user: facts.user, email: facts.email.clone(), name: facts.name.clone(), role };
        Some(Self { team, who, key: None, credential: Credential::Session(hash.clone()) })
    }

    /// As audit rows and events name it.
    pub fn author(&self) -> Author {
        match (&self.who, &self.key) {
            (Who::Person { user, email, .. }, _) => {
                Author { kind: ActorType::User, id: Some(user.to_string()), name: email.clone() }
            }
            (Who::Team, Some(key)) => {
                Author { kind: ActorType::ApiKey, id: Some(key.id.to_string()), name: key.name.clone() }
            }
            (Who::Team, None) => Author::system(),
        }
    }

    /// The person it acts for.
    pub fn user(&self) -> Option<UserId> {
        match self.who {
            Who::Person { user, .. } => Some(user),
            Who::Team => None,
        }
    }

    /// Finds the person this actor is.
    pub fn person(&self) -> Option<Person> {
        match &self.who {
            Who::Person { user, email, name, role } => {
                Some(Person { user: *user, email: email.clone(), name: name.clone(), team: Some((self.team, *role)) })
            }
            Who::Team => None,
        }
    }
}

impl Person {
    /// The person of a session.
    pub fn of_session(facts: &SessionFacts) -> Self {
        Self { user: facts.user, email: facts.email.clone(), name: facts.name.clone(), team: facts.team }
    }

    /// As audit rows and events name it.
    pub fn author(&self) -> Author {
        Author { kind: ActorType::User, id: Some(self.user.to_string()), name: self.email.clone() }
    }
}
