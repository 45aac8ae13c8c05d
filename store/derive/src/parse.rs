//! Reads the enum and its attributes, and refuses what could not be stored and read back.

use std::collections::{BTreeMap, HashSet};
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Data, DeriveInput, Error, Fields, Generics, Ident, LitInt, LitStr, Path, Result, Token};

/// Longest event type, in bytes of UTF-8, as the contract has it.
const EVENT_TYPE_BYTES_MAX: usize = 256;

/// An enum whose variants are event types.
pub struct EventEnum {
    pub name: Ident,
    pub generics: Generics,
    pub variants: Vec<Variant>,
    pub unknown: Unknown,
}

/// What becomes of event types that no variant has.
pub enum Unknown {
    Refuse,
    Skip,
    /// They go into this variant.
    Keep(Ident),
}

/// One event type.
pub struct Variant {
    pub ident: Ident,
    /// Its place among the variants that serde reads, which is how serde is told which one to read.
    pub index: u32,
    /// The name that is written, then the others that are read.
    pub names: Vec<String>,
    pub schema: u32,
    pub upcasts: BTreeMap<u32, Path>,
}

/// What `#[event(…)]` on a variant says.
#[derive(Default)]
struct VariantOptions {
    name: Option<LitStr>,
    aliases: Vec<LitStr>,
    schema: Option<(u32, LitInt)>,
    upcasts: BTreeMap<u32, Path>,
    unknown: bool,
}

impl EventEnum {
    pub fn parse(input: &DeriveInput) -> Result<Self> {
        let Data::Enum(data) = &input.data else {
            return Err(Error::new_spanned(&input.ident, "events are an enum: each variant is an event type"));
        };
        refuse_other_representations(&input.attrs)?;
        let mut unknown = parse_enum_options(&input.attrs)?;
        let mut variants = Vec::new();
        let mut taken = HashSet::new();
        let mut index = 0;
        for variant in &data.variants {
            let options = parse_variant_options(&variant.attrs)?;
            let read_by_serde = !skipped_by_serde(&variant.attrs)?;
            if options.unknown {
                check_unknown(&variant.fields, variant, &unknown)?;
                unknown = Unknown::Keep(variant.ident.clone());
            } else if read_by_serde {
                let parsed = options.into_variant(&variant.ident, index)?;
                match parsed.names.iter().find(|name| !taken.insert((*name).clone())) {
                    Some(twice) => {
                        let message = format!("the event type {twice:?} stands twice");
                        return Err(Error::new_spanned(variant, message));
                    }
                    None => variants.push(parsed),
                }
            } else {
                return Err(Error::new_spanned(variant, "serde skips this variant, so it cannot be read back"));
            }
            index += u32::from(read_by_serde);
        }
        Ok(Self { name: input.ident.clone(), generics: input.generics.clone(), variants, unknown })
    }
}

impl VariantOptions {
    fn into_variant(self, ident: &Ident, index: u32) -> Result<Variant> {
        let name = self.name.unwrap_or_else(|| LitStr::new(&ident.to_string(), ident.span()));
        let mut names = Vec::new();
        for literal in std::iter::once(&name).chain(&self.aliases) {
            let text = literal.value();
            if text.is_empty() || text.len() > EVENT_TYPE_BYTES_MAX || text.chars().any(char::is_control) {
                return Err(Error::new_spanned(literal, "an event type has 1 to 256 bytes and no control character"));
            }
            names.push(text);
        }
        let schema = self.schema.as_ref().map_or(1, |(number, _)| *number);
        let wanted: BTreeMap<u32, ()> = (1..schema).map(|number| (number, ())).collect();
        if let Some(missing) = wanted.keys().find(|number| !self.upcasts.contains_key(number)) {
            let message = format!("schema {missing} was written once and has to be read: add upcast({missing} = …)");
            return Err(Error::new(ident.span(), message));
        }
        if let Some((stray, path)) = self.upcasts.iter().find(|(number, _)| !wanted.contains_key(number)) {
            let message =
                format!("an upcast starts from a schema below the present one, which is {schema}, not {stray}");
            return Err(Error::new_spanned(path, message));
        }
        Ok(Variant { ident: ident.clone(), index, names, schema, upcasts: self.upcasts })
    }
}

fn parse_enum_options(attributes: &[Attribute]) -> Result<Unknown> {
    let mut unknown = Unknown::Refuse;
    each_event_option(attributes, |meta| {
        if !meta.path.is_ident("unknown") {
            return Err(meta.error("no such option of an enum; known: unknown"));
        }
        let policy: LitStr = meta.value()?.parse()?;
        unknown = match policy.value().as_str() {
            "refuse" => Unknown::Refuse,
            "skip" => Unknown::Skip,
            _ => {
                return Err(Error::new_spanned(
                    policy,
                    "what becomes of unknown event types is \"refuse\" or \"skip\"",
                ));
            }
        };
        Ok(())
    })?;
    Ok(unknown)
}

fn parse_variant_options(attributes: &[Attribute]) -> Result<VariantOptions> {
    let mut options = VariantOptions::default();
    each_event_option(attributes, |meta| {
        let option = meta.path.get_ident().map(Ident::to_string).unwrap_or_default();
        match option.as_str() {
            "name" => options.name = Some(meta.value()?.parse()?),
            "alias" => options.aliases.push(meta.value()?.parse()?),
            "schema" => options.schema = Some(number(meta.value()?.parse()?)?),
            "upcast" => parse_upcasts(meta, &mut options.upcasts)?,
            "unknown" => options.unknown = true,
            _ => return Err(meta.error("no such option of an event; known: name, alias, schema, upcast, unknown")),
        }
        Ok(())
    })?;
    Ok(options)
}

/// `upcast(1 = from_v1, 2 = from_v2)`.
fn parse_upcasts(meta: &ParseNestedMeta<'_>, upcasts: &mut BTreeMap<u32, Path>) -> Result<()> {
    let content;
    syn::parenthesized!(content in meta.input);
    while !content.is_empty() {
        let (from, literal) = number(content.parse()?)?;
        content.parse::<Token![=]>()?;
        if upcasts.insert(from, content.parse()?).is_some() {
            return Err(Error::new_spanned(literal, "this schema has an upcast already"));
        }
        if !content.is_empty() {
            content.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

fn number(literal: LitInt) -> Result<(u32, LitInt)> {
    match literal.base10_parse::<u32>() {
        Ok(number) if number > 0 => Ok((number, literal)),
        _ => Err(Error::new_spanned(literal, "a schema number is a whole number from 1")),
    }
}

fn each_event_option(attributes: &[Attribute], mut read: impl FnMut(&ParseNestedMeta<'_>) -> Result<()>) -> Result<()> {
    let own = attributes.iter().filter(|attribute| attribute.path().is_ident("event"));
    own.into_iter().try_for_each(|attribute| attribute.parse_nested_meta(|meta| read(&meta)))
}

fn check_unknown(fields: &Fields, variant: &syn::Variant, before: &Unknown) -> Result<()> {
    match (before, fields) {
        (Unknown::Refuse, Fields::Unnamed(fields)) if fields.unnamed.len() == 1 => Ok(()),
        (Unknown::Refuse, _) => Err(Error::new_spanned(
            variant,
            "the variant for unknown event types holds one RawEvent: Unknown(RawEvent)",
        )),
        (Unknown::Skip | Unknown::Keep(_), _) => {
            Err(Error::new_spanned(variant, "what becomes of unknown event types is said twice"))
        }
    }
}

/// The content of a variant is stored alone, which needs serde's default, external representation.
fn refuse_other_representations(attributes: &[Attribute]) -> Result<()> {
    each_serde_option(attributes, |meta| {
        let other = ["tag", "content", "untagged", "from", "try_from", "into", "transparent", "variant_identifier"];
        if other.iter().any(|option| meta.path.is_ident(option)) {
            return Err(meta.error("events need serde's default representation: the event type is the tag"));
        }
        Ok(())
    })
}

fn skipped_by_serde(attributes: &[Attribute]) -> Result<bool> {
    let mut skipped = false;
    each_serde_option(attributes, |meta| {
        skipped |= meta.path.is_ident("skip") || meta.path.is_ident("skip_deserializing");
        Ok(())
    })?;
    Ok(skipped)
}

fn each_serde_option(attributes: &[Attribute], mut read: impl FnMut(&ParseNestedMeta<'_>) -> Result<()>) -> Result<()> {
    let serde = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
    serde.into_iter().try_for_each(|attribute| {
        attribute.parse_nested_meta(|meta| {
            read(&meta)?;
            pass_over_value(&meta)
        })
    })
}

/// Serde checks its own options; here their values only have to be consumed.
fn pass_over_value(meta: &ParseNestedMeta<'_>) -> Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let content;
        syn::parenthesized!(content in meta.input);
        content.parse::<proc_macro2::TokenStream>()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn refused(input: DeriveInput) -> String {
        match EventEnum::parse(&input) {
            Ok(_) => panic!("taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_schema_without_a_way_from_each_older_one_does_not_compile() {
        let message = refused(parse_quote! { enum E { #[event(schema = 3, upcast(1 = f))] A } });
        assert_eq!(message, "schema 2 was written once and has to be read: add upcast(2 = …)");
        let message = refused(parse_quote! { enum E { #[event(upcast(1 = f))] A } });
        assert_eq!(message, "an upcast starts from a schema below the present one, which is 1, not 1");
        let message = refused(parse_quote! { enum E { #[event(schema = 2, upcast(1 = f, 1 = g))] A } });
        assert_eq!(message, "this schema has an upcast already");
    }

    #[test]
    fn one_event_type_for_two_variants_does_not_compile() {
        let message = refused(parse_quote! { enum E { A, #[event(alias = "A")] B } });
        assert_eq!(message, "the event type \"A\" stands twice");
    }

    #[test]
    fn what_serde_would_store_otherwise_does_not_compile() {
        let message = refused(parse_quote! { #[serde(tag = "type")] enum E { A } });
        assert_eq!(message, "events need serde's default representation: the event type is the tag");
        let message = refused(parse_quote! { enum E { #[serde(skip)] A } });
        assert_eq!(message, "serde skips this variant, so it cannot be read back");
    }

    #[test]
    fn unknown_event_types_have_one_place_to_go() {
        let message = refused(parse_quote! { #[event(unknown = "skip")] enum E { #[event(unknown)] A(RawEvent) } });
        assert_eq!(message, "what becomes of unknown event types is said twice");
        let message = refused(parse_quote! { enum E { #[event(unknown)] A } });
        assert_eq!(message, "the variant for unknown event types holds one RawEvent: Unknown(RawEvent)");
        let message = refused(parse_quote! { #[event(unknown = "drop")] enum E { A } });
        assert_eq!(message, "what becomes of unknown event types is \"refuse\" or \"skip\"");
    }

    #[test]
    fn options_and_names_that_cannot_be_do_not_compile() {
        let message = refused(parse_quote! { enum E { #[event(version = 2)] A } });
        assert_eq!(message, "no such option of an event; known: name, alias, schema, upcast, unknown");
        let message = refused(parse_quote! { enum E { #[event(name = "")] A } });
        assert_eq!(message, "an event type has 1 to 256 bytes and no control character");
        let message = refused(parse_quote! { enum E { #[event(schema = 0)] A } });
        assert_eq!(message, "a schema number is a whole number from 1");
        assert_eq!(refused(parse_quote! { struct S; }), "events are an enum: each variant is an event type");
    }

    #[test]
    fn variants_that_serde_skips_take_no_place() {
        let input =
            parse_quote! { enum E { #[event(unknown)] #[serde(skip)] U(RawEvent), A, #[serde(rename = "b")] B } };
        let Ok(parsed) = EventEnum::parse(&input) else { panic!("refused") };
        assert_eq!(parsed.variants.iter().map(|variant| variant.index).collect::<Vec<_>>(), [0, 1]);
    }
}
