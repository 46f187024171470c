//! Roles in a team and the one table that says what each may do.
//!
//! Owns: [`Role::may`]. Must never: know where a role is stored; roles are read from the database at each act.

use std::fmt;
use std::str::FromStr;

/// Role of a member in a team. A team has exactly one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Member,
    Admin,
    Owner,
}

/// An act on a team or on what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// See the team, its members, its keys, the public part of its audit log; use capsules.
    Use,
    /// Make an API key, or take back a key one made oneself.
    ManageOwnKeys,
    /// Take back anybody's key.
    RevokeAnyKey,
    /// Change the team's name.
    Rename,
    /// Add a person as a member.
    AddMember,
    /// Remove somebody of this role.
    RemoveMember(Role),
    /// Change somebody of the first role to the second.
    ChangeRole(Role, Role),
    /// Leave the team.
    Leave,
    /// See the part of the audit log about members and hosts.
    SeeAdminAudit,
    /// Make somebody else the owner.
    TransferOwnership,
    /// Delete the team with everything in it.
    Delete,
}

impl Role {
    /// Every role, weakest first.
    pub const ALL: [Self; 3] = [Self::Member, Self::Admin, Self::Owner];

    /// Whether this role may do it. The owner's own role changes by a transfer only, so a team never has none or two.
    pub const fn may(self, act: Act) -> bool {
        match act {
            Act::Use | Act::ManageOwnKeys => true,
            Act::Leave => !matches!(self, Self::Owner),
            Act::RevokeAnyKey | Act::Rename | Act::AddMember | Act::SeeAdminAudit => {
                matches!(self, Self::Admin | Self::Owner)
            }
            Act::RemoveMember(Role::Owner) => false,
            // An admin cannot remove another one: else the first to act would win a quarrel.
            Act::RemoveMember(Role::Admin) => matches!(self, Self::Owner),
            Act::RemoveMember(Role::Member) => matches!(self, Self::Admin | Self::Owner),
            Act::ChangeRole(Role::Owner, _) | Act::ChangeRole(_, Role::Owner) => false,
            Act::ChangeRole(Role::Admin, Role::Admin | Role::Member) => matches!(self, Self::Owner),
            Act::ChangeRole(Role::Member, Role::Admin | Role::Member) => matches!(self, Self::Admin | Self::Owner),
            Act::TransferOwnership | Act::Delete => matches!(self, Self::Owner),
        }
    }

    /// The word stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// A word that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a role is owner, admin or member")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn acts() -> Vec<Act> {
        let mut acts = vec![
            Act::Use,
            Act::ManageOwnKeys,
            Act::RevokeAnyKey,
            Act::Rename,
            Act::AddMember,
            Act::Leave,
            Act::SeeAdminAudit,
            Act::TransferOwnership,
            Act::Delete,
        ];
        for role in Role::ALL {
            acts.push(Act::RemoveMember(role));
            acts.extend(Role::ALL.map(|to| Act::ChangeRole(role, to)));
        }
        acts
    }

    #[test]
    fn the_whole_table_is_as_agreed() {
        let mut table = String::new();
        for act in acts() {
            let who: Vec<_> = Role::ALL.into_iter().filter(|role| role.may(act)).map(Role::as_str).collect();
            table.push_str(&format!("{act:?}: {}\n", who.join(", ")));
        }
        insta::assert_snapshot!(table);
    }

    proptest! {
        #[test]
        fn a_stronger_role_may_all_a_weaker_one_may_but_leave(act in proptest::sample::select(acts())) {
            if act != Act::Leave {
                prop_assert!(!Role::Member.may(act) || Role::Admin.may(act), "{:?}", act);
                prop_assert!(!Role::Admin.may(act) || Role::Owner.may(act), "{:?}", act);
            }
        }

        /// Whatever members try on each other in whatever order, there is exactly one owner.
        #[test]
        fn no_sequence_of_acts_leaves_a_team_without_its_one_owner(
            steps in proptest::collection::vec((0usize..4, 0usize..4, 0usize..5), 0..60)
        ) {
            let mut team = [Some(Role::Owner), Some(Role::Admin), Some(Role::Member), Some(Role::Member)];
            for (who, whom, what) in steps {
                let (Some(actor), Some(target)) = (team[who], team[whom]) else { continue };
                match what {
                    0 | 1 => {
                        let to = if what == 0 { Role::Admin } else { Role::Member };
                        if actor.may(Act::ChangeRole(target, to)) {
                            team[whom] = Some(to);
                        }
                    }
                    2 if actor.may(Act::RemoveMember(target)) => team[whom] = None,
                    3 if actor.may(Act::Leave) => team[who] = None,
                    4 if who != whom && actor.may(Act::TransferOwnership) => {
                        team[who] = Some(Role::Admin);
                        team[whom] = Some(Role::Owner);
                    }
                    _ => {}
                }
                prop_assert_eq!(team.iter().filter(|role| **role == Some(Role::Owner)).count(), 1);
            }
        }
    }
}
