import { installShell } from './pkg/sw-helper.js';
import { shell } from './shell.js';

installShell(self, shell);
