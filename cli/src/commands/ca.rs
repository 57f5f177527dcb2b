//! `ca`: the network's certificate authorities. Who may read and write Secret depin-ca may do this; the operator carries it out.

use std::{fs, path::Path};

use depin_backup::{AuthorityBundle, Identities, Recipients, is_sealed};
use depin_domain::time::Timestamp;
use depin_identity::{CertificateAuthority, keys::write_private};
use depin_operator::{
    annotations::{CA_RETIRE, CA_ROTATE},
    certificates::{CA, authorities::Authorities, kept},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::suspend::MANAGER;
use crate::{
    args::{Arguments, CaCommand},
    cluster::Cluster,
    fault::Fault,
    output::{Report, Table, short, when},
};

pub(super) async fn run(arguments: &Arguments, command: &CaCommand) -> Result<Report, Fault> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client, &arguments.cluster.operator_namespace);
    match command {
        CaCommand::Status => status(&stored(&secrets).await?),
        CaCommand::Rotate { certificate, private_key } => {
            rotate(&secrets, certificate.as_deref().zip(private_key.as_deref())).await
        }
        CaCommand::Retire { yes } => retire(&secrets, *yes).await,
        CaCommand::Export { out, recipients } => export(&secrets, out, recipients).await,
        CaCommand::Restore { file, identity, yes } => {
            let text = fs::read(file).map_err(|error| Fault::file(file, error))?;
            let bundle = opened(file, text, identity.as_deref())?;
            restore(&secrets, &file.display().to_string(), &bundle, *yes).await
        }
    }
}

fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

async fn stored(secrets: &Api<Secret>) -> Result<Secret, Fault> {
    secrets.get_opt(CA).await?.ok_or_else(|| {
        Fault::not_found("Secret depin-ca is not there", "name the operator's namespace with --operator-namespace")
    })
}

fn read(secret: &Secret) -> Result<Authorities, Fault> {
    kept::read(secret, now())
        .map_err(|error| Fault::failed(error.to_string(), "restore it: kubectl depin ca restore FILE"))
}

fn status(secret: &Secret) -> Result<Report, Fault> {
    let authorities = read(secret)?;
    let word = kept::word(secret);
    let mut table = Table::new(["AUTHORITY", "STATE", "SINCE", "ENDS"]);
    let mut all = Vec::new();
    let mut add = |hash: String, state: &str, since: Option<Timestamp>, ends: Option<Timestamp>| {
        let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), when);
        table.row([short(&hash), state.to_owned(), time(since), time(ends)]);
        all.push(json!({"sha256": hash, "state": state, "since": since.map(when), "ends": ends.map(when)}));
    };
    let issuing = &authorities.issuing;
    add(issuing.hash().to_string(), "Issuing", None, Some(issuing.validity().end));
    if let Some(next) = &authorities.next {
        add(next.authority.hash().to_string(), "Introduced", next.introduced, Some(next.authority.validity().end));
    }
    for (hash, since) in authorities.retirements() {
        add(hash.to_string(), "Retired", Some(since), None);
    }
    let mut text = table.text();
    if word.rotate || word.retire {
        text += "the operator has not carried out yet what was asked for; is it running?\n";
    }
    Ok(Report::new(json!({"authorities": all, "rotate": word.rotate, "retire": word.retire}), text))
}

/// Annotates the Secret, and puts fields into it.
async fn ask(secrets: &Api<Secret>, word: &str, fields: Value) -> Result<(), Fault> {
    let asked = when(now());
    let patch = json!({"metadata": {"annotations": {word: asked}}, "stringData": fields});
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    secrets.patch(CA, &parameters, &Patch::Merge(patch)).await?;
    Ok(())
}

async fn rotate(secrets: &Api<Secret>, brought: Option<(&Path, &Path)>) -> Result<Report, Fault> {
    if read(&stored(secrets).await?)?.next.is_some() {
        return Err(Fault::failed(
            "a rotation is under way",
            "see kubectl depin ca status; start another one when it is over",
        ));
    }
    let fields = match brought {
        None => json!({}),
        Some((certificate, key)) => {
            let text = |path: &Path| fs::read_to_string(path).map_err(|error| Fault::file(path, error));
            let (chain, secret) = (text(certificate)?, text(key)?);
            CertificateAuthority::from_pem(&chain, &secret).map_err(|error| Fault::file(certificate, error))?;
            json!({"next.crt": chain, "next.key": secret})
        }
    };
    ask(secrets, CA_ROTATE, fields).await?;
    Ok(Report::new(
        json!({"asked": "rotate"}),
        "asked: a new authority is made known first, and issues after the operator's --ca-introduction; the one before stays trusted for what \
         it issued\n  kubectl depin ca status",
    ))
}

async fn retire(secrets: &Api<Secret>, yes: bool) -> Result<Report, Fault> {
    let retired = read(&stored(secrets).await?)?.retirements();
    if retired.is_empty() {
        return Err(Fault::failed("no authority is retired", "see kubectl depin ca status; rotate first"));
    }
    let value = json!({"retired": retired.len(), "asked": yes});
    if !yes {
        return Ok(Report::new(
            value,
            format!(
                "{} retired: they are dropped by themselves when nothing needs them any more. Dropped now, every agent whose certificate is by \
                 one of them is cut off until that certificate ends, and one that was dark since has to enroll anew.\n  kubectl depin ca retire --yes",
                retired.len()
            ),
        ));
    }
    ask(secrets, CA_RETIRE, json!({})).await?;
    Ok(Report::new(value, "asked: what is retired is trusted no more within a few minutes"))
}

async fn export(secrets: &Api<Secret>, out: &Path, recipients: &[String]) -> Result<Report, Fault> {
    let recipients = Recipients::parse(recipients)
        .map_err(|error| Fault::usage(format!("--recipient: {error}"), "see age-keygen -y"))?;
    let secret = stored(secrets).await?;
    read(&secret)?;
    let text = serde_json::to_vec_pretty(&kept::exported(&secret));
    let text = text.map(Zeroizing::new).map_err(|error| Fault::failed(error.to_string(), "report it"))?;
    let sealed = recipients.seal(&text).map_err(|error| Fault::failed(error.to_string(), "give other recipients"))?;
    write_private(out, &sealed).map_err(|error| Fault::file(out, error))?;
    let file = out.display();
    let told = if recipients.is_empty() {
        format!(
            "{file} holds the authority's key and is not encrypted: whoever reads it can act as anyone. Give --recipient, and keep it apart from \
             the ledger's backups."
        )
    } else {
        format!(
            "{file} is encrypted to {}; kubectl depin ca restore {file} --identity FILE",
            recipients.names().join(", ")
        )
    };
    Ok(Report::new(json!({"file": out, "encrypted": !recipients.is_empty()}), told))
}

/// What an export holds.
fn opened(file: &Path, text: Vec<u8>, identity: Option<&Path>) -> Result<AuthorityBundle, Fault> {
    if !is_sealed(&text) {
        return Ok(AuthorityBundle(Zeroizing::new(text)));
    }
    let read = |identity| Identities::read(identity).map_err(|error| Fault::file(identity, error));
    let identities = identity.map(read).transpose()?.unwrap_or_default();
    AuthorityBundle::open(&text.into(), &["its recipients".to_owned()], &identities)
        .map_err(|error| Fault::file(file, error))
}

/// Puts authorities into the Secret; `from` names where they come from.
pub(super) async fn restore(
    secrets: &Api<Secret>,
    from: &str,
    bundle: &AuthorityBundle,
    yes: bool,
) -> Result<Report, Fault> {
    let damaged = |error: &dyn std::fmt::Display| {
        Fault::failed(
            format!("{from}: {error}"),
            "is it what kubectl depin ca export or a backup of this version wrote?",
        )
    };
    let mut secret: Secret = serde_json::from_slice(&bundle.0).map_err(|error| damaged(&error))?;
    let hash = kept::read(&secret, now()).map_err(|error| damaged(&error))?.issuing.hash().to_string();
    let existing = secrets.get_opt(CA).await?;
    let value = json!({"sha256": hash, "replaced": existing.is_some()});
    let Some(existing) = existing else {
        secrets.create(&PostParams::default(), &secret).await?;
        return Ok(Report::new(value, format!("authority {} is back", short(&hash))));
    };
    let there = read(&existing).map(|authorities| authorities.issuing.hash().to_string());
    if there.as_ref().is_ok_and(|there| *there == hash) {
        return Ok(Report::new(value, format!("authority {} is there already", short(&hash))));
    }
    if !yes {
        return Err(Fault::failed(
            "another authority is in Secret depin-ca",
            "with --yes it is replaced; a running operator retires it, and trusts it on for what it issued",
        ));
    }
    secret.metadata.resource_version = existing.resource_version();
    secrets.replace(CA, &PostParams::default(), &secret).await?;
    Ok(Report::new(
        value,
        format!("authority {} issues again; a running operator follows within seconds", short(&hash)),
    ))
}
