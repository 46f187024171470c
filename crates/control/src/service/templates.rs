//! Templates a team can create sandboxes from.

use wrenn_store::pg::{Template, TemplateKind};

use super::{Actor, ServiceError};
use crate::context::Context;

/// The team's own and the platform's, newest first.
pub async fn list(ctx: &Context, actor: &Actor, kind: Option<TemplateKind>) -> Result<Vec<Template>, ServiceError> {
    Ok(ctx.store.template_list(actor.team, kind).await?)
}
