//! `POST /init`: what must be true before a booted or restored guest is handed out.
//!
//! A copy of a snapshot shares everything with its siblings: random numbers, clock, names, token. For every new
//! `lifecycle_id` this makes them its own, and answers only when all of it is done.
//!
//! Must never: hand out success for a step that failed, or apply anything for a caller with the wrong token.

mod system;

use wrenn_contract::guest::{Init, InitDone};
use wrenn_domain::limits::{EXEC_ARG_BYTES_MAX, EXEC_ENVS_MAX};
use zeroize::Zeroizing;

use crate::identity::{Identity, Published, TokenCheck};
pub use system::System;

/// Name servers a resolver reads; glibc ignores more.
const DNS_SERVERS_MAX: usize = 3;
/// Bytes of entropy one `/init` brings.
const ENTROPY_BYTES: std::ops::RangeInclusive<usize> = 32..=512;

/// Why an `/init` was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A token is set and the caller did not present it.
    #[error("the access token is missing or wrong")]
    Unauthorized,
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A step failed; the sandbox must not be handed out.
    #[error("{step} failed")]
    Step {
        /// Which one.
        step: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Whether nothing is to be written or grown for this one, so that it need not be done on a thread of its own.
pub fn is_quick(identity: &Identity, init: &Init) -> bool {
    let nothing_named = init.sandbox_id.is_none() && init.dns.is_empty() && init.published().next().is_none();
    let nothing_new = nothing_named && !identity.is_new_life(init.lifecycle_id.as_deref());
    !init.grow_root && (identity.has_names(init) || nothing_new)
}

/// Applies `init` for a caller who presented `token`. Blocking; one at a time.
///
/// # Errors
/// See [`InitError`]. After a failed step the earlier ones stay done; the caller may try again.
pub fn apply(identity: &Identity, system: &System, token: Option<&[u8]>, init: &Init) -> Result<InitDone, InitError> {
    if identity.check(token) == TokenCheck::Wrong {
        return Err(InitError::Unauthorized);
    }
    let entropy = parse(init)?;
    let new_life = identity.is_new_life(init.lifecycle_id.as_deref());
    let named = identity.has_names(init);
    let mut done = InitDone {
        lifecycle_id: init.lifecycle_id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_version: system.kernel_version(),
        entropy_reseeded: false,
        clock_offset_ns: None,
        root_bytes: 0,
    };
    if new_life {
        if let Some(entropy) = &entropy {
            done.entropy_reseeded = system.reseed(entropy).map_err(step("reseeding the random generator"))?;
        }
        if !named {
            system.set_machine_id(init.sandbox_id.as_deref()).map_err(step("setting the machine id"))?;
        }
    }
    if let Some(now) = init.timestamp_ns {
        done.clock_offset_ns = Some(system.step_clock(now).map_err(step("setting the clock"))?);
    }
    if let Some(name) = init.sandbox_id.as_ref().filter(|_| !named) {
        system.set_hostname(name).map_err(step("setting the host name"))?;
    }
    if !init.dns.is_empty() && !named {
        system.set_dns(&init.dns).map_err(step("setting the name servers"))?;
    }
    if init.grow_root {
        system.grow_root().map_err(step("growing the root file system"))?;
    }
    done.root_bytes = system.root_bytes().map_err(step("reading the size of the root file system"))?;
    if !named {
        identity.publish(init).map_err(step("writing the sandbox's ids"))?;
    }
    identity.apply(init);
    Ok(done)
}

fn step<E>(step: &'static str) -> impl FnOnce(E) -> InitError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| InitError::Step { step, source: Box::new(source) }
}

/// Checks every field before anything is applied; returns the entropy.
fn parse(init: &Init) -> Result<Option<Zeroizing<Vec<u8>>>, InitError> {
    let invalid = |text: String| Err(InitError::Invalid(text));
    if init
        .access_token
        .as_deref()
        .is_some_and(|token| token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()))
    {
        return invalid("access_token must be printable ASCII".into());
    }
    if init.dns.len() > DNS_SERVERS_MAX {
        return invalid(format!("dns has more than {DNS_SERVERS_MAX} servers"));
    }
    if init.env_vars.len() > EXEC_ENVS_MAX {
        return invalid(format!("envVars has more than {EXEC_ENVS_MAX} variables"));
    }
    for (name, value) in &init.env_vars {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') || value.len() > EXEC_ARG_BYTES_MAX {
            return invalid(format!("envVars has an unusable variable {name:?}"));
        }
    }
    let ids = [&init.sandbox_id, &init.template_id, &init.proxy_domain];
    if ids.into_iter().flatten().any(|id| id.len() > 255 || id.contains(['\0', '\n'])) {
        return invalid("sandbox_id, template_id and proxy_domain are single lines of at most 255 bytes".into());
    }
    if init.timestamp_ns.is_some_and(|ns| ns < 0) {
        return invalid("timestamp_ns is before 1970".into());
    }
    let Some(text) = &init.entropy else {
        return Ok(None);
    };
    match hex::decode(text) {
        Ok(bytes) if ENTROPY_BYTES.contains(&bytes.len()) => Ok(Some(Zeroizing::new(bytes))),
        _ => invalid("entropy must be 32 to 512 bytes in hex".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_applied_for_a_wrong_token_or_a_bad_field() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::new(directory.path());
        let system = System::untouched();
        let first = Init { access_token: Some("one".into()), ..Init::default() };
        apply(&identity, &system, None, &first).unwrap();
        let second = Init { access_token: Some("two".into()), ..Init::default() };
        assert!(matches!(apply(&identity, &system, Some(b"x"), &second), Err(InitError::Unauthorized)));
        assert!(matches!(apply(&identity, &system, None, &second), Err(InitError::Unauthorized)));
        let bad = Init { access_token: Some("two".into()), entropy: Some("00".into()), ..Init::default() };
        assert!(matches!(apply(&identity, &system, Some(b"one"), &bad), Err(InitError::Invalid(_))));
        assert_eq!(identity.check(Some(b"one")), TokenCheck::Right);
        apply(&identity, &system, Some(b"one"), &second).unwrap();
        assert_eq!(identity.check(Some(b"two")), TokenCheck::Right);
    }
}
