// Drives the generated TypeScript clients against a running server: a capsule from its creation to its end, and errors.
import { createCapsule, deleteCapsule, getCapsule, listCapsules } from './generated/orval.js';
import type { components, paths } from './generated/types.js';

declare const process: { env: Record<string, string | undefined>; exit(code: number): never };

const options: RequestInit = { headers: { 'X-API-Key': process.env.WRENN_API_KEY ?? '' } };

function check(what: string, holds: boolean): void {
  if (!holds) {
    console.error(`does not hold: ${what}`);
    process.exit(1);
  }
}

const made = await createCapsule({ template: 'minimal' }, options);
check('a capsule is accepted', made.status === 202);
if (made.status !== 202) throw new Error('narrowed above');
const id: string = made.data.id;
const listed = await listCapsules(options);
check('it is listed', listed.status === 200 && listed.data.some((one) => one.id === id));
const found = await getCapsule(id, options);
check('it is found', found.status === 200 && found.data.id === id);
const ended = await deleteCapsule(id, options);
check('its end is accepted', ended.status === 202);

// An error is a value with a code of the closed set, not an exception.
const missing = await getCapsule('cl-0000000000000000000000000', options);
check('what is not there is not_found', missing.status === 404 && missing.data.error.code === 'not_found');
const refused = await listCapsules({ headers: { 'X-API-Key': 'wrn_00000000000000000000000000000000' } });
check('a wrong key is unauthorized', refused.status === 401 && refused.data.error.code === 'unauthorized');

// The types of openapi-typescript say the same.
const code: components['schemas']['ErrorCode'] = 'not_found';
type Made = paths['/v1/capsules']['post']['responses'][202]['content']['application/json'];
const again: Pick<Made, 'id'> = { id };
check('types and values agree', code === 'not_found' && again.id === id);
console.log('TypeScript clients work');
