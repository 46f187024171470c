//! Accounts: sign-up, activation, login, the name. No answer and no time taken tells whether an address has an account.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use wrenn_domain::account::{Email, Password, PersonName, TeamName};
use wrenn_domain::failure::{Failure, FailureKind};
use wrenn_domain::ids::{TeamId, UserId};
use wrenn_domain::limits::ACTIVATION_AGE_MAX;
use wrenn_domain::secret::{Secret, SecretHash};
use wrenn_store::Store;
use wrenn_store::pg::{Activated, Author, EnsureUser, NewAudit, NewTeam, SignUp, SignedUp, User, UserStatus};

use super::rates::{self, Limited};
use super::revocation;
use crate::actor::Person;
use crate::client_address::ClientAddress;
use crate::config::Signup;
use crate::context::Context;
use crate::error::ServiceError;
use crate::extension::hooks;
use crate::extension::plugin::NewAccount;
use crate::fault::FaultPoint;
use crate::mail::Mail;
use crate::passwords::{Checked, Passwords};
use crate::random;

/// A wish for an account.
#[derive(Debug, Clone)]
pub struct CreateAccount {
    pub email: Email,
    pub name: PersonName,
}

/// For whoever runs the server: an account that must be there.
#[derive(Debug, Clone)]
pub struct EnsureAccount {
    pub email: Email,
    pub name: PersonName,
    pub admin: bool,
    /// A team to own, if it is there and has no owner.
    pub team: Option<TeamName>,
}

/// Profile that `GET /v1/me` shows beside the person.
#[derive(Debug, Clone)]
pub struct Profile {
    pub name: String,
    pub is_admin: bool,
    pub has_password: bool,
    pub providers: Vec<String>,
}

/// Refuses those who are to make an account by themselves, where only the operator makes any.
///
/// # Errors
/// When WRENN_SIGNUP is closed.
pub(super) fn admit_strangers(ctx: &Context) -> Result<(), Failure> {
    match ctx.config.accounts.signup {
        Signup::Open => Ok(()),
        Signup::Closed => Err(Failure::new(
            FailureKind::Forbidden,
            "sign-up is closed here; ask who runs this installation for an account",
        )),
    }
}

/// Takes a sign-up. Always the same answer: what becomes of it is said in a mail to the address.
///
/// # Errors
/// When it is tried too often, the values are not valid, or the database is away.
pub async fn sign_up(ctx: &Context, from: ClientAddress, request: CreateAccount) -> Result<(), ServiceError> {
    admit_strangers(ctx)?;
    rates::take_address(ctx, Limited::SignUp, from).await?;
    rates::take_account(ctx, Limited::SignUp, request.email.as_str()).await?;
    let new = SignUp {
        user: UserId::from_uuid(random::id()),
        first_team: TeamId::from_uuid(random::id()),
        email: request.email.clone(),
        name: request.name.clone(),
        keep: ACTIVATION_AGE_MAX,
    };
    let activation = Mail::activation(&request.email).outbound_job();
    let already = Mail::already_signed_up(&request.email).outbound_job();
    let nothing = Mail::nothing(&request.email).outbound_job();
    // Whatever it becomes, one outbound job is written: that takes time too.
    let job = |outcome| match outcome {
        SignedUp::Pending => activation.clone(),
        SignedUp::Taken(UserStatus::Active) => already.clone(),
        // A mail went out a short while ago, or must not go out at all.
        SignedUp::Cooling | SignedUp::Taken(_) => nothing.clone(),
    };
    let outcome = ctx.store.user_sign_up(&new, job).await?;
    ctx.faults.reach(FaultPoint::SignUpStored).await;
    ctx.queues.mails.wake_for(job(outcome).id);
    Ok(())
}

/// Makes a signed-up account whole. The distribution's hooks come first: when one fails, nothing happened and the same token
/// may be sent again.
///
/// # Errors
/// When the token is over, a hook refuses, it is tried too often, or the database is away.
pub async fn activate(
    ctx: &Context,
    from: ClientAddress,
    token: &str,
    password: Option<&Password>,
) -> Result<Activated, ServiceError> {
    rates::take_address(ctx, Limited::Activate, from).await?;
    let over = || Failure::invalid("this activation link is not valid any more; sign up again");
    let token = token.parse::<Secret>().map_err(|_| over())?.hash();
    let user = ctx.store.user_by_activation(&token).await?.ok_or_else(over)?;
    hooks::on_signup(ctx, &account_of(&user)).await?;
    let audit = |user: &User| activation_audit(user.first_team, &author_of(user), "email");
    let hash = match password {
        Some(password) => Some(ctx.passwords.hash(&from.network(), password).await?),
        None => None,
    };
    let activated =
        ctx.store.user_activate(&token, &random::slug()?, hash.as_deref(), audit).await?.ok_or_else(over)?;
    tracing::info!(user = %activated.user, admin = activated.is_admin, "{} is active", activated.user);
    Ok(activated)
}

/// Name of an account as tried from one network.
pub(super) fn at_network(email: &str, from: ClientAddress) -> String {
    format!("{email} from {}", from.network())
}

/// Checks address and password. Answers the account's id; refuses all wrong pairs alike.
///
/// # Errors
/// When the pair is wrong, the account is not active, it is tried too often, or the database is away.
pub async fn log_in(ctx: &Context, from: ClientAddress, email: &str, password: &str) -> Result<UserId, ServiceError> {
    rates::take_address(ctx, Limited::Login, from).await?;
    // Text that is no address has no account; it still takes as long.
    let email = email.parse::<Email>().ok();
    // By account and network: nobody locks another out by trying, and many networks together get no more than a few tries a second.
    if let Some(email) = &email {
        rates::take_account(ctx, Limited::Login, &at_network(email.as_str(), from)).await?;
        rates::take_account(ctx, Limited::LoginAnywhere, email.as_str()).await?;
    }
    let user = match &email {
        Some(email) => ctx.store.user_by_email(email).await?,
        None => None,
    };
    // A deleted account is gone; what it was must not show.
    let user = user.filter(|user| user.status != UserStatus::Deleted);
    let stored = user.as_ref().and_then(|user| user.password_hash.as_deref());
    let checked = ctx.passwords.check(&from.network(), stored, password).await?;
    let wrong = || Failure::new(FailureKind::Unauthorized, "the e-mail address or the password is wrong");
    let user = user.filter(|_| checked != Checked::Wrong).ok_or_else(wrong)?;
    match user.status {
        UserStatus::Active => {}
        UserStatus::Inactive => {
            let text =
                "this account is not activated yet; open the link in the mail, or sign up again after half an hour";
            return Err(Failure::new(FailureKind::Forbidden, text).into());
        }
        UserStatus::Disabled | UserStatus::Deleted => {
            return Err(Failure::new(FailureKind::Forbidden, "this account is shut; ask the platform's admins").into());
        }
    }
    rates::forgive_account(ctx, Limited::Login, &at_network(&user.email, from)).await?;
    if let (Checked::RightRenewed(hash), Some(old)) = (&checked, &user.password_hash) {
        ctx.store.password_rehash(user.id, old, hash).await?;
    }
    Ok(user.id)
}

/// The team a login of this user begins in; one is made when there is none left.
///
/// # Errors
/// When the database cannot be asked.
pub async fn home(ctx: &Context, user: UserId) -> Result<Option<TeamId>, ServiceError> {
    if let Some((team, _)) = ctx.store.team_first(user).await? {
        return Ok(Some(team));
    }
    let Some(found) = ctx.store.user_get(user).await? else { return Ok(None) };
    let Ok(name) = found.name.parse::<PersonName>() else { return Ok(None) };
    let name = TeamName::of_person(&name);
    let team = TeamId::from_uuid(random::id());
    let audit = NewAudit::new(team, author_of(&found), "team", "create").on(team);
    let new = NewTeam { id: team, name: &name, slug: &random::slug()?, owner: user, is_default: true };
    let made = ctx.store.team_create(&new, &[audit], &[]).await?;
    // Somebody may have added the user to a team meanwhile; then that is as good.
    Ok(if made { Some(team) } else { ctx.store.team_first(user).await?.map(|(team, _)| team) })
}

/// Reads what an account is beside what its session says.
///
/// # Errors
/// When the account is not active any more, or the database is away.
pub async fn profile(ctx: &Context, person: &Person) -> Result<Profile, ServiceError> {
    let user = ctx.store.user_get(person.user).await?.ok_or_else(gone)?;
    Ok(Profile {
        name: user.name,
        is_admin: user.is_admin,
        has_password: user.password_hash.is_some(),
        providers: ctx.store.oauth_list(person.user).await?,
    })
}

/// Changes what a person is called.
///
/// # Errors
/// When the account is not active any more, or the database is away.
pub async fn rename(ctx: &Context, person: &Person, name: &PersonName) -> Result<(), ServiceError> {
    ctx.store.user_rename(person.user, name).await?.ok_or_else(gone)?;
    revocation::forget_user(ctx, person.user).await;
    Ok(())
}

/// People one shares a team with, by the beginning of their address.
///
/// # Errors
/// When it is tried too often, the values are not valid, or the database is away.
pub async fn search(ctx: &Context, person: &Person, prefix: &str) -> Result<Vec<(UserId, String)>, ServiceError> {
    rates::take_account(ctx, Limited::SearchUsers, &person.user.to_string()).await?;
    let prefix = prefix.trim().to_ascii_lowercase();
    if prefix.len() < 3 || prefix.len() > 254 || !prefix.contains('@') || prefix.contains('\0') {
        return Err(Failure::invalid("email: send at least 3 characters of an address, with its @").into());
    }
    Ok(ctx.store.user_search(person.user, &prefix).await?)
}

/// Makes sure of an account, with a new random password, which is answered.
///
/// # Errors
/// When the password cannot be made or hashed, or the database is away.
pub async fn ensure(store: &Store, request: EnsureAccount) -> Result<(UserId, String), ServiceError> {
    let password = URL_SAFE_NO_PAD.encode(random::bytes::<18>()?);
    let new = EnsureUser {
        id: UserId::from_uuid(random::id()),
        first_team: TeamId::from_uuid(random::id()),
        slug: random::slug()?,
        email: request.email,
        name: request.name,
        password_hash: Passwords::default().hash("operator", &password.parse()?).await?,
        admin: request.admin,
        team: request.team,
    };
    Ok((store.user_ensure(&new).await?, password))
}

/// The account's own name in audit rows.
pub(super) fn author_of(user: &User) -> Author {
    Author { kind: wrenn_domain::event::ActorType::User, id: Some(user.id.to_string()), name: user.email.clone() }
}

/// Rows that tell of an account's beginning.
pub(super) fn activation_audit(team: TeamId, author: &Author, by: &str) -> Vec<NewAudit> {
    vec![NewAudit::new(team, author.clone(), "team", "create").on(team).with("signup", by)]
}

pub(super) fn account_of(user: &User) -> NewAccount {
    NewAccount { user: user.id, team: user.first_team, email: user.email.clone(), name: user.name.clone() }
}

/// A token's hash is only looked up when the text can be a token at all.
pub(super) fn token_hash(text: &str) -> Option<SecretHash> {
    text.parse::<Secret>().ok().map(|secret| secret.hash())
}

pub(super) fn gone() -> Failure {
    Failure::new(FailureKind::Unauthorized, "this account is not active; log in again")
}
