// @ts-check
/**
 * From a place name to an IANA time zone, with the @vvo/tzdb table (countries, main cities, zone names).
 * @typedef {{ name: string, alternativeName: string, group: string[], countryName: string, countryCode: string, mainCities: string[], abbreviation: string }} Zone
 */

/** Where a country spans several zones, the one of its capital or, if that is not meant by most people, of its largest city. @type {Record<string, string>} */
const MAIN_ZONE = {
  US: 'America/New_York',
  CA: 'America/Toronto',
  MX: 'America/Mexico_City',
  BR: 'America/Sao_Paulo',
  CL: 'America/Santiago',
  EC: 'America/Guayaquil',
  AU: 'Australia/Sydney',
  NZ: 'Pacific/Auckland',
  ID: 'Asia/Jakarta',
  RU: 'Europe/Moscow',
  KZ: 'Asia/Almaty',
  MN: 'Asia/Ulaanbaatar',
  CN: 'Asia/Shanghai',
  ES: 'Europe/Madrid',
  PT: 'Europe/Lisbon',
  CD: 'Africa/Kinshasa',
  CY: 'Asia/Nicosia',
  GL: 'America/Nuuk',
  PG: 'Pacific/Port_Moresby',
  UA: 'Europe/Kyiv',
  KI: 'Pacific/Tarawa',
  FM: 'Pacific/Pohnpei',
  PF: 'Pacific/Tahiti',
};

/** Names people use that the table does not hold. @type {Record<string, string>} */
const ALIASES = {
  usa: 'united states',
  us: 'united states',
  america: 'united states',
  uk: 'united kingdom',
  britain: 'united kingdom',
  england: 'united kingdom',
  scotland: 'united kingdom',
  wales: 'united kingdom',
  nyc: 'new york',
  la: 'los angeles',
  'san francisco': 'los angeles',
  sf: 'los angeles',
  seattle: 'los angeles',
  california: 'los angeles',
  texas: 'chicago',
  florida: 'new york',
  boston: 'new york',
  washington: 'new york',
  'washington dc': 'new york',
  miami: 'new york',
  hawaii: 'honolulu',
  alaska: 'anchorage',
  holland: 'netherlands',
  uae: 'united arab emirates',
  mumbai: 'india',
  bombay: 'india',
  delhi: 'india',
  'new delhi': 'india',
  beijing: 'china',
  peking: 'china',
  saigon: 'ho chi minh city',
  munich: 'germany',
  hamburg: 'germany',
  frankfurt: 'germany',
  barcelona: 'spain',
  milan: 'italy',
  geneva: 'switzerland',
  osaka: 'japan',
  kyoto: 'japan',
  utc: 'utc',
  gmt: 'utc',
  korea: 'south korea',
  czechia: 'czech republic',
};

/** In lower case, without accents, punctuation and articles. @param {string} s */
const plain = (s) =>
  s
    .normalize('NFD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, ' ')
    .replace(/^the /, '')
    .trim();

/** @param {Zone[]} zones */
export function zoneIndex(zones) {
  /** Ranked: a city of that name wins over a country, a country over "Pacific Time". @type {Map<string, string>[]} */
  const [cities, countries, names] = [new Map(), new Map(), new Map()];
  const add = (/** @type {Map<string, string>} */ map, /** @type {string} */ key, /** @type {string} */ zone) =>
    !map.has(key) && map.set(key, zone);
  for (const z of zones) {
    for (const id of [z.name, ...z.group]) add(cities, plain(id.split('/').at(-1) ?? ''), z.name);
    for (const city of z.mainCities) add(cities, plain(city), z.name);
    add(countries, plain(z.countryName), MAIN_ZONE[z.countryCode] ?? z.name);
    add(names, plain(z.alternativeName), z.name);
    add(names, plain(z.alternativeName.replace(' Time', '')), z.name);
  }
  add(cities, 'utc', 'UTC');

  /** @param {string} place @returns {string | undefined} IANA name */
  return function find(place) {
    const whole = plain(place);
    // "Paris, France" and "Springfield in Illinois": the first part decides, the others are tried when it is unknown.
    for (const part of [whole, ...place.split(/,| in /i).map(plain)]) {
      const key = ALIASES[part] ?? part;
      for (const map of [cities, countries, names]) if (map.has(key)) return map.get(key);
    }
    if (whole.length < 4) return undefined;
    for (const map of [countries, cities]) {
      const near = [...map.keys()].filter((k) => k.startsWith(whole));
      if (near.length === 1) return map.get(near[0]);
    }
    return undefined;
  };
}

/** @param {Date} now @param {string} [timeZone] @returns {string} '2:05 PM' */
export const timeIn = (now, timeZone) =>
  now.toLocaleTimeString('en-US', { hour: 'numeric', minute: '2-digit', timeZone }).replace(/\s/g, ' ');
