//! The floor of `reads`: axum and sqlx with one route that SELECTs a row by its primary key.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use sqlx::postgres::{PgPool, PgPoolOptions};
use uuid::Uuid;

/// Serves on a free port, which it prints as its first line.
pub fn serve(database_url: &str) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let pool = PgPoolOptions::new().max_connections(16).connect(database_url).await?;
        let app = Router::new().route("/{id}", get(read)).with_state(pool);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        axum::serve(listener, app).await?;
        Ok(())
    })
}

async fn read(State(pool): State<PgPool>, Path(id): Path<Uuid>) -> Result<Json<serde_json::Value>, StatusCode> {
    let row: (Uuid, String, i32, i32) =
        sqlx::query_as("select id, state, vcpus, memory_mib from sandboxes where id = $1")
            .bind(id)
            .fetch_one(&pool)
            .await
            .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Json(serde_json::json!({"id": row.0, "status": row.1, "vcpus": row.2, "memory_mb": row.3})))
}
