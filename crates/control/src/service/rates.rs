//! How often credentials may be tried, per account and per client address. Counted in the database, so for all control
//! planes together, and before the act: tries at once cannot pass together.

use std::time::Duration;

use wrenn_domain::failure::Failure;
use wrenn_store::pg::Rate;

use crate::client_address::ClientAddress;
use crate::context::Context;
use crate::error::ServiceError;

/// An act that is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    SignUp,
    Activate,
    Login,
    /// Logins to one account from all networks together.
    LoginAnywhere,
    AskReset,
    ConfirmReset,
    ChangePassword,
    DeleteAccount,
    OAuth,
    BeginDevice,
    AskDevice,
    ApproveDevice,
    AddMember,
    SearchUsers,
    CreateKey,
    CreateChannel,
    TestChannel,
}

impl Limited {
    fn word(self) -> &'static str {
        match self {
            Self::SignUp => "signup",
            Self::Activate => "activate",
            Self::Login => "login",
            Self::LoginAnywhere => "login-anywhere",
            Self::AskReset => "reset",
            Self::ConfirmReset => "reset-confirm",
            Self::ChangePassword => "password",
            Self::DeleteAccount => "delete-account",
            Self::OAuth => "oauth",
            Self::BeginDevice => "device",
            Self::AskDevice => "device-ask",
            Self::ApproveDevice => "device-approve",
            Self::AddMember => "member",
            Self::SearchUsers => "user-search",
            Self::CreateKey => "key",
            Self::CreateChannel => "channel",
            Self::TestChannel => "channel-test",
        }
    }

    /// For one client address. An office behind one address must get through; a guesser must not.
    fn per_address(self) -> Rate {
        match self {
            Self::SignUp | Self::AskReset => rate(10, 60),
            Self::Login | Self::LoginAnywhere => rate(30, 4),
            Self::Activate | Self::ConfirmReset | Self::OAuth => rate(30, 10),
            Self::BeginDevice => rate(20, 30),
            Self::AskDevice => rate(60, 1),
            Self::ChangePassword
            | Self::DeleteAccount
            | Self::ApproveDevice
            | Self::AddMember
            | Self::SearchUsers
            | Self::CreateKey
            | Self::CreateChannel
            | Self::TestChannel => rate(60, 10),
        }
    }

    /// For one account, whatever address it comes from.
    fn per_account(self) -> Rate {
        match self {
            // Each may send a mail.
            Self::SignUp | Self::AskReset => rate(3, 600),
            Self::Login => rate(10, 30),
            // Room for a flood of wrong tries beside its owner's; Argon2 and this bound what guessing from many networks gets.
            Self::LoginAnywhere => rate(200, 1),
            Self::ChangePassword | Self::DeleteAccount => rate(10, 60),
            Self::ApproveDevice => rate(10, 30),
            Self::Activate | Self::ConfirmReset | Self::OAuth | Self::BeginDevice | Self::AskDevice => rate(30, 10),
            Self::AddMember | Self::SearchUsers => rate(30, 10),
            Self::CreateKey => rate(60, 10),
            // Each may look a name of the caller's choice up.
            Self::CreateChannel => rate(30, 10),
            // Each calls an address of the caller's choice.
            Self::TestChannel => rate(10, 10),
        }
    }
}

const fn rate(burst: u32, every_secs: u64) -> Rate {
    Rate { burst, every: Duration::from_secs(every_secs) }
}

/// Counts one try of an address.
///
/// # Errors
/// When it was tried too often, or the database is away.
pub async fn take_address(ctx: &Context, act: Limited, from: ClientAddress) -> Result<(), ServiceError> {
    take(ctx, &format!("{}:addr:{}", act.word(), from.network()), act.per_address()).await
}

/// Counts one try on an account, named by address or id.
///
/// # Errors
/// When it was tried too often, or the database is away.
pub async fn take_account(ctx: &Context, act: Limited, account: &str) -> Result<(), ServiceError> {
    take(ctx, &account_key(act, account), act.per_account()).await
}

/// The account proved itself: its tries so far are forgiven.
///
/// # Errors
/// When the database cannot be asked.
pub async fn forgive_account(ctx: &Context, act: Limited, account: &str) -> Result<(), ServiceError> {
    Ok(ctx.store.rate_forgive(&account_key(act, account)).await?)
}

fn account_key(act: Limited, account: &str) -> String {
    format!("{}:account:{account}", act.word())
}

async fn take(ctx: &Context, key: &str, rate: Rate) -> Result<(), ServiceError> {
    match ctx.store.rate_take(key, rate).await? {
        Ok(()) => Ok(()),
        Err(wait) => Err(ServiceError::TooMany {
            failure: Failure::invalid(format!("too many tries; try again in {} seconds", secs_up(wait))),
            wait,
        }),
    }
}

/// Whole seconds, never too few.
fn secs_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
