//! Calls about secrets.

use ostler_libvirt::RemoteError;
use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{List, ListAllArgs, ListAllSecretsRet, MAX_SECRETS, Opaque};
use ostler_libvirt_xml::secret::Secret as Definition;

use super::{Context, Dispatcher, check_flags, pool};
use crate::uuid;

/// Which secrets a list has: of each pair a flag that holds, if one is set (`virConnectListAllSecretsFlags`).
const EPHEMERAL: u32 = 1;
const NO_EPHEMERAL: u32 = 2;
const PRIVATE: u32 = 4;
const NO_PRIVATE: u32 = 8;

pub(super) fn add(to: &mut Dispatcher) {
    to.on::<ConnectNumOfSecrets>(|context, ()| Ok(context.shared.secrets.all(|_| true).len() as i32));
    to.on::<ConnectListSecrets>(|context, max| {
        let all = context.shared.secrets.all(|_| true);
        let texts = all.iter().map(|secret| uuid::format(&secret.uuid));
        Ok(List(texts.take(max.max(0) as usize).collect()))
    });
    to.on::<ConnectListAllSecrets>(list_all);
    to.on::<SecretLookupByUuid>(|context, uuid| context.shared.secrets.by_uuid(&uuid));
    to.on::<SecretLookupByUsage>(|context, args| context.shared.secrets.by_usage(args.usage, &args.usage_id));
    to.on::<SecretDefineXml>(|context, args| {
        pool::check_definition_flags(args.flags)?;
        context.shared.secrets.define(&args.xml)
    });
    to.on::<SecretGetXmlDesc>(|context, args| {
        check_flags(args.flags, 0)?;
        context.shared.secrets.xml(&args.secret)
    });
    to.on::<SecretSetValue>(|context, args| {
        check_flags(args.flags, 0)?;
        context.shared.secrets.set_value(&args.secret, args.value.0)
    });
    to.on::<SecretGetValue>(|context, args| {
        check_flags(args.flags, 0)?;
        context.shared.secrets.value(&args.secret).map(Opaque)
    });
    to.on::<SecretUndefine>(|context, secret| context.shared.secrets.undefine(&secret));
    to.on::<SecretEventRegister>(|context, args| {
        let secrets = &context.shared.secrets;
        let secret = match &args.secret {
            Some(secret) => Some(secrets.by_uuid(&secret.uuid)?.uuid),
            None => None,
        };
        secrets
            .subscriptions()
            .subscribe(context.client, args.event, secret)
    });
    to.on::<SecretEventDeregister>(|context, callback| {
        context
            .shared
            .secrets
            .subscriptions()
            .unsubscribe(context.client, callback)
    });
}

fn is_wanted(secret: &Definition, flags: u32) -> bool {
    let of = |is, yes, no| flags & (yes | no) == 0 || flags & if is { yes } else { no } != 0;
    of(secret.ephemeral, EPHEMERAL, NO_EPHEMERAL) && of(secret.private, PRIVATE, NO_PRIVATE)
}

fn list_all(context: &Context<'_>, args: ListAllArgs) -> Result<ListAllSecretsRet, RemoteError> {
    check_flags(args.flags, EPHEMERAL | NO_EPHEMERAL | PRIVATE | NO_PRIVATE)?;
    let mut secrets = context.shared.secrets.all(|secret| is_wanted(secret, args.flags));
    secrets.truncate(MAX_SECRETS);
    let count = secrets.len() as u32;
    if args.need_results == 0 {
        secrets.clear();
    }
    Ok(ListAllSecretsRet {
        secrets: List(secrets),
        count,
    })
}
